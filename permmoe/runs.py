"""A model trained and evaluated at one place, from a manifest to a folder of results.

The folder holds `model/` (the best weights and their card), `last/` (all that a killed run needs to go on),
`learning.csv`, `results.csv`, `quarantine.csv`, and `unlike.csv`: training images unlike the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from permmoe.calibration.calibrate import calibrate
from permmoe.calibration.calibration import CARD_KEY
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
from permmoe.errors import ConfigurationError, DataError
from permmoe.evaluation.results_table import results_table
from permmoe.evaluation.tracked_figures import epoch_figures, result_figures
from permmoe.layers.encoders import fixed_stem
from permmoe.runtime.checkpoint import join_groups, load_checkpoint, save_checkpoint, split_groups
from permmoe.runtime.checkpoint_card import has_checkpoint
from permmoe.runtime.provenance import machine, versions
from permmoe.runtime.tracking.tracker import NOT_TRACKED, Tracking, run_name
from permmoe.training.fit import EpochReport, FitState, fit
from permmoe.training.seeds import make_model


def load_visits(
    manifest: Path,
    config: RunConfig,
    cache: Path,
    columns: OutcomeColumns = USUAL_COLUMNS,
    *,
    are_trusted: bool = False,
) -> tuple[VisitData, Quarantine]:
    """Read a manifest's visits, split, with their volumes. `columns`: where the manifest holds the outcome.

    Images that were not prepared as the model declares are left out. `are_trusted`: somebody vouches for those of which
    nothing is known.

    Raises DataError where nothing is left to use, and for a manifest of another score than the model's.
    """
    table, quarantine = read_manifest(manifest, config.model.modalities, score=config.model.score, columns=columns)
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
    device: str = "cpu",
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    tracking: Tracking = NOT_TRACKED,
) -> pd.DataFrame:
    """Train, or go on training, in `out`; returns the results table of the test visits. `on_note` is told, in sentences
    that name no subject, what of the data is doubtful.

    A folder begun with another configuration or other data is refused with a ConfigurationError.
    """
    data, quarantine = load_visits(manifest, config, cache, columns, are_trusted=are_trusted)
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
    model = make_model(settings, config.train.seed).to(device)
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
    resume, learning = _resume(out, card)
    facts = {key: card[key] for key in ("data_digest", "is_synthetic", "versions")}
    tracked_settings = {**config.model_dump(mode="json"), **facts}
    tracked = tracking.run("permmoe train", run_name("training", tracked_settings), tracked_settings)

    def keep(report: EpochReport) -> None:
        learning.append({"epoch": report.epoch, "loss": report.loss, "validation_rmse": report.validation_rmse})
        save_checkpoint(out / "last", _tensors(report.state), card | _progress(report.state) | {"learning": learning})
        figures = epoch_figures(report.loss, len(train), report.validation_rmse, report.validation)
        tracked.log(figures, report.epoch)
        if on_epoch:
            on_epoch(report)

    try:
        state = fit(model, train, data.part("validation"), config.train, resume=resume, on_epoch=keep)
    except FloatingPointError as error:
        raise ConfigurationError(
            f"training diverged: {error}; lower train.learning_rate, and name a new folder or delete {out}"
        ) from None
    pd.DataFrame(learning).to_csv(out / "learning.csv", index=False)
    results = results_table(model, data.part("test"))
    mean = float(results.loc[results.stratum.eq("all"), "rmse"].mean())
    calibration = calibrate(
        model,
        data.part("validation"),
        source="the validation visits of the training's manifest",
        chose_the_weights=config.train.keep == "best",
    )
    if calibration is None and on_note:
        on_note("too few validation visits for prediction intervals; `permmoe calibrate` takes other patients")
    save_checkpoint(
        out / "model",
        state.best_weights,
        card
        | {"best_epoch": state.best_epoch, "metrics": {"test_mean_rmse": mean}}
        | ({CARD_KEY: calibration.model_dump(mode="json")} if calibration else {}),
    )
    results.to_csv(out / "results.csv", index=False)
    tracked.log(result_figures(results[results.stratum.eq("all")]), state.best_epoch)
    tracked.end()
    return results


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
    )


def _write_unlike(path: Path, unlike: Mapping[str, Sequence[Visit]]) -> None:
    """Itemise the training images that are unlike the rest. The file names patients: it stays at the site."""
    rows = [(v.subject_id, name, str(v.volumes[name])) for name, visits in unlike.items() for v in visits]
    write_csv_atomically(path, ("subject_id", "modality", "file"), rows)


def _tensors(state: FitState) -> dict[str, Tensor]:
    return join_groups(
        {
            "weights": state.weights,
            "average": state.average,
            "best": state.best_weights,
            "optimiser": state.optimiser,
        }
    )


def _progress(state: FitState) -> dict[str, Any]:
    return {"progress": {"epoch": state.epoch, "best_epoch": state.best_epoch, "best_mse": state.best_mse}}


def _resume(out: Path, card: Mapping[str, Any]) -> tuple[FitState | None, list[dict[str, Any]]]:
    if not has_checkpoint(out / "last"):
        return None, []
    tensors, saved = load_checkpoint(out / "last")
    for key in ("model", "train", "split", "data_digest"):
        if saved[key] != card[key]:
            raise ConfigurationError(
                f"{out} was begun with another {key.replace('_', ' ')}; name a new folder, or delete this one"
            )
    groups = split_groups(tensors, expected=("weights", "average", "best", "optimiser"))
    progress = saved["progress"]
    state = FitState(
        epoch=progress["epoch"],
        weights=groups["weights"],
        average=groups["average"],
        best_weights=groups["best"],
        best_epoch=progress["best_epoch"],
        best_mse=progress["best_mse"],
        optimiser=groups["optimiser"],
    )
    return state, list(saved["learning"])
