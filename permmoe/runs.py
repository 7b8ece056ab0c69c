"""A model trained and evaluated at one place, from a manifest to a folder of results.

The folder holds `model/` (the best weights and their card), `last/` (all that a killed run needs to go on),
`learning.csv`, `results.csv`, `quarantine.csv`, and `unlike.csv`: training images unlike the rest. Of an ensemble,
`last/` and `learning.csv` are the first member's; each further one has them in a folder such as `member-2`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from permmoe.calibration.calibrate import calibrate
from permmoe.calibration.calibration import CARD_KEY, Calibration
from permmoe.config import ModelConfig, RunConfig, SplitConfig, TrainConfig, parse_config
from permmoe.data.cache import VolumeCache
from permmoe.data.data_digest import data_digest
from permmoe.data.dataset import VisitData, fit_scaling
from permmoe.data.manifest import read_manifest
from permmoe.data.outcome_columns import USUAL_COLUMNS, OutcomeColumns
from permmoe.data.outcomes import outcomes_of
from permmoe.data.preparation import with_declared_preparation, with_matching_images
from permmoe.data.presence import require_images
from permmoe.data.quarantine import Quarantine, write_csv_atomically
from permmoe.data.splits import assign_splits
from permmoe.data.synthetic import is_synthetic
from permmoe.data.tracer_rule import mixed_tracers
from permmoe.data.unlike import described_images, unlike_the_rest, usual_images
from permmoe.data.visits import Visit
from permmoe.encoder_weights import brought_encoders
from permmoe.ensemble import MEMBERS_KEY, Network, joined
from permmoe.errors import ConfigurationError, DataError
from permmoe.evaluation.results_table import results_table
from permmoe.evaluation.tracked_figures import result_figures
from permmoe.layers.encoders import fixed_stem
from permmoe.resumable_fit import Learning, fit_in
from permmoe.runtime.checkpoint import load_checkpoint, save_checkpoint
from permmoe.runtime.device_errors import device_notes
from permmoe.runtime.devices import CPU, on_device
from permmoe.runtime.provenance import machine, versions
from permmoe.runtime.tracking.tracker import NOT_TRACKED, Tracking, run_name
from permmoe.training.fit import EpochReport
from permmoe.training.seeds import make_model, member_seed


def load_visits(
    manifest: Path,
    config: RunConfig,
    cache: Path,
    columns: OutcomeColumns = USUAL_COLUMNS,
    *,
    are_trusted: bool = False,
    with_unlabelled: bool = False,
) -> tuple[VisitData, Quarantine]:
    """Read a manifest's visits, split, with their volumes. `columns`: where the manifest holds the outcome.

    Visits without an outcome are itemised, or among the others `with_unlabelled`. Images that were not prepared as the
    model declares are left out. `are_trusted`: somebody vouches for those of which nothing is known.

    Raises DataError where nothing is left to use, and for a manifest of another score than the model's.
    """
    table, quarantine = read_manifest(
        manifest,
        config.model.modalities,
        need_target=not with_unlabelled,
        score=config.model.score,
        columns=columns,
        covariates=config.model.harmonised_by,
    )
    table, unlike = with_matching_images(table, config.model.modalities, are_trusted=are_trusted)
    quarantine += unlike
    table = assign_splits(table, config.split)
    data, broken = VisitData.load(table, config.model, VolumeCache(cache), stem=fixed_stem(config.model))
    require_images(data.visits, quarantine + broken, config.model.names)
    if len(data) == 0:
        raise DataError(f"{manifest} has no usable visit; `permmoe data inspect {manifest}` says why")
    return data, quarantine + broken


def train_run(
    manifest: Path,
    out: Path,
    config: RunConfig,
    *,
    cache: Path,
    columns: OutcomeColumns = USUAL_COLUMNS,
    are_trusted: bool = False,
    device: str = CPU,
    falls_back: bool = False,
    on_epoch: Callable[[int, EpochReport], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    tracking: Tracking = NOT_TRACKED,
    weights: Path | None = None,
) -> pd.DataFrame:
    """Train, or go on training, in `out`; returns the results table of the test visits.

    `on_epoch` is told which member of an ensemble, from 0, has done another epoch; `on_note`, in sentences that name no
    subject, what of the data is doubtful. `weights` is the folder of the file that `model.encoder.weights` names.

    Where the GPU of `device` fails, the CPU goes on if `falls_back`, and the card says so; else DeviceUnusable is
    raised, and the same call goes on after the last whole epoch. A folder begun with another configuration or other
    data is refused with a ConfigurationError.
    """
    if config.model.harmonisation:
        raise ConfigurationError("model.harmonisation is between the sites of a federation; leave it out at one place")
    if config.model.horizons_months:
        raise ConfigurationError("a manifest has outcomes of one horizon; leave model.horizons_months out")
    # Before anything is read that takes long.
    brought = brought_encoders(config.model, weights)
    data, quarantine = load_visits(
        manifest,
        config,
        cache,
        columns,
        are_trusted=are_trusted,
        with_unlabelled=config.train.pretraining is not None,
    )
    out.mkdir(parents=True, exist_ok=True)
    quarantine.write(out / "quarantine.csv")
    torch.set_num_threads(config.train.threads or torch.get_num_threads())
    train = data.part("train")
    if len(train) == 0:
        raise DataError(f"{manifest} has no training visit; lower the test and validation shares, or add visits")
    for sentence in mixed_tracers(data.visits, config.model.modalities).values():
        if on_note:
            on_note(sentence)
    settings = fit_scaling(train, config.model)
    settings = settings.model_copy(update={"modalities": with_declared_preparation(settings.modalities, data.visits)})
    volumes = VolumeCache(cache)
    described = described_images(train.visits, settings.modalities, settings.grid, volumes)
    _write_unlike(out / "unlike.csv", unlike_the_rest(described))
    usual = usual_images(described)
    outcomes = outcomes_of(train.baseline, train.target)
    card = {
        "model": settings.model_dump(mode="json"),
        "is_synthetic": is_synthetic(data.visits, manifest),
        "usual_images": {name: likeness.model_dump(mode="json") for name, likeness in usual.items()},
        **({"outcomes": outcomes.model_dump(mode="json")} if outcomes else {}),
        "train": config.train.model_dump(mode="json"),
        "split": config.split.model_dump(mode="json"),
        "data_digest": data_digest(data.visits, settings.modalities, settings.grid, volumes),
        "horizon_months": sorted({v.horizon_months for v in data.visits}),
        "versions": versions(),
        "machine": machine(),
    }
    _require_members(out, config.members)
    facts = {key: card[key] for key in ("data_digest", "is_synthetic", "versions")}

    def trained(on: str) -> _Trained:
        models, best_epochs, tested = [], [], []
        for member in range(config.members):
            own = config.train.model_copy(update={"seed": member_seed(config.train.seed, member)})
            tracked_settings = {**config.model_dump(mode="json"), "train": own.model_dump(mode="json"), **facts}
            tracked = tracking.run("permmoe train", run_name("training", tracked_settings), tracked_settings)
            model = make_model(settings, own.seed, brought).to(on)
            state = fit_in(
                _member_folder(out, member), model, train, data.part("validation"), own,
                card | {"train": own.model_dump(mode="json")},
                Learning(tracked, partial(on_epoch, member) if on_epoch else None), data.scans(),
            )  # fmt: skip
            models.append(model)
            best_epochs.append(state.best_epoch)
            tested.append(results_table(model, data.part("test")))
            tracked.log(result_figures(_overall(tested[-1])), state.best_epoch)
            tracked.end()
        network = joined(models)
        calibration = calibrate(
            network,
            data.part("validation"),
            source="the validation visits of the training's manifest",
            chose_the_weights=config.train.keep == "best",
        )
        results = results_table(network, data.part("test")) if len(models) > 1 else tested[0]
        return _Trained(network, best_epochs, tested, results, calibration)

    with device_notes() as notes:
        done = on_device(device, trained, falls_back=falls_back)
    if notes:
        card["device_notes"] = notes
    best_epochs, tested, results, calibration = done.best_epochs, done.tested, done.results, done.calibration
    if calibration is None and on_note:
        on_note("too few validation visits for prediction intervals; `permmoe calibrate` takes other patients")
    metrics: dict[str, Any] = {"test_mean_rmse": _mean_rmse(results)}
    if config.members > 1:
        card |= {MEMBERS_KEY: config.members, "best_epochs": best_epochs}
        metrics["test_mean_rmse_by_member"] = [_mean_rmse(one) for one in tested]
    else:
        card |= {"best_epoch": best_epochs[0]}
    calibrated = {CARD_KEY: calibration.model_dump(mode="json")} if calibration else {}
    save_checkpoint(out / "model", done.network.state_dict(), card | {"metrics": metrics} | calibrated)
    results.to_csv(out / "results.csv", index=False)
    return results


@dataclass(frozen=True)
class _Trained:
    """What the members of a run have become."""

    network: Network
    best_epochs: list[int]
    tested: list[pd.DataFrame]
    """Each member's results."""
    results: pd.DataFrame
    calibration: Calibration | None


def unlike_counts(out: Path) -> dict[str, int]:
    """How many training images of each modality are unlike the rest, of a run's folder; only those that have any."""
    return dict(Counter(map(str, pd.read_csv(out / "unlike.csv").modality)))


def trained_config(folder: Path) -> RunConfig:
    """The configuration that a model was trained with, its split included: its test visits stay its test visits.

    A federated model's card names no split, since each site made its own; the default split is returned for it.
    """
    _, card = load_checkpoint(folder)
    source = f"the model card in {folder}"
    return RunConfig(
        model=parse_config(card.get("model", {}), ModelConfig, source),
        train=parse_config(card.get("train", {}), TrainConfig, source),
        split=parse_config(card.get("split", {}), SplitConfig, source),
        members=card.get(MEMBERS_KEY, 1),
    )


def _write_unlike(path: Path, unlike: Mapping[str, Sequence[Visit]]) -> None:
    """Itemise the training images that are unlike the rest. The file names patients: it stays at the site."""
    rows = [(v.subject_id, name, str(v.volumes[name])) for name, visits in unlike.items() for v in visits]
    write_csv_atomically(path, ("subject_id", "modality", "file"), rows)


def _overall(results: pd.DataFrame) -> pd.DataFrame:
    """The rows that are about everybody."""
    return results[results.stratum.eq("all")]


def _mean_rmse(results: pd.DataFrame) -> float:
    return float(_overall(results)["rmse"].mean())


def _member_folder(out: Path, member: int) -> Path:
    """The first member's is the run's own, which is a single model's too."""
    return out / f"member-{member + 1}" if member else out


def _require_members(out: Path, members: int) -> None:
    """Raise ConfigurationError for a folder that is a larger ensemble's: fewer members would leave some behind."""
    if _member_folder(out, members).exists():
        raise ConfigurationError(
            f"{out} was begun with more than {members} member(s); name a new folder, or give --members as before"
        )
