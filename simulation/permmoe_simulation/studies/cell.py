"""Run one cell: train a method on a partition with a seed, and keep what the tables need.

A cell's folder holds `predictions.npz` (test visits × combinations), `learning.csv`, `rounds.csv`, `privacy.csv`
and `activation.npz` where they apply, and `card.json`, written last: a folder without it is an unfinished cell.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from permmoe.config import ModelConfig
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData, fit_scaling
from permmoe.data.kinds import kind_of
from permmoe.data.splits import assign_splits
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError
from permmoe.evaluation.activation import Activation, expert_activation
from permmoe.evaluation.baselines import BASELINES
from permmoe.evaluation.combinations import (
    ErrorSums,
    combination_predictions,
    mean_squared_error,
)
from permmoe.federated.modules import ModuleLayout
from permmoe.layers.encoders import fixed_stem
from permmoe.modality import all_combinations, combination_name
from permmoe.model import PerMMoE
from permmoe.runtime.provenance import machine, versions
from permmoe.training.fit import EpochReport, fit
from permmoe.training.seeds import make_model
from permmoe_simulation.engines.cell_federation import Federation, train_federation
from permmoe_simulation.studies.partition import Sites, partition
from permmoe_simulation.studies.study import Cell

Array = np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What a method did on a partition."""

    test: VisitTable
    """The visits that it is judged on: those whose images could be read."""
    predictions: Float[Array, "visit combination"]
    """For these visits in order, points."""
    learning: list[dict[str, Any]] = field(default_factory=list)
    """Rows of step, step_kind, combination, rmse (validation visits, points)."""
    rounds: list[dict[str, Any]] = field(default_factory=list)
    privacy: list[dict[str, Any]] = field(default_factory=list)
    """Federated: what each site's patients lost."""
    activation: Activation | None = None


def split_and_partition(visits: VisitTable, cell: Cell) -> tuple[Sites, Sites]:
    """The cell's sites, their visits split, and the sites left out."""
    table = assign_splits(visits, cell.split)
    return partition(table, cell.modalities, cell.partition, cell.seed)


def joined(sites: Sites) -> VisitTable:
    """All sites' visits, in the order of site names."""
    return VisitTable(tuple(visit for table in sites.values() for visit in table))


def is_finished(folder: Path) -> bool:
    """Whether a cell's folder is complete."""
    return (folder / "card.json").exists()


def run_cell(cell: Cell, visits: VisitTable, cache: Path, folder: Path) -> Path:
    """Run a cell unless `folder` already holds it finished; safe to call from two processes at once.

    `visits` is the study's whole table. The work is done in a folder of its own, renamed when it is complete.
    """
    if is_finished(folder):
        return folder
    torch.set_num_threads(cell.train.threads or 1)
    work = folder.with_name(f"{folder.name}.{os.getpid()}.unfinished")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    started = time.perf_counter()
    _forget_peak_memory()
    sites, _ = split_and_partition(visits, cell)
    site_of = {visit.subject_id: site for site, table in sites.items() for visit in table}
    outcome = RUNNERS[cell.method.kind](cell, sites, VolumeCache(cache), work)
    np.savez(
        work / "predictions.npz",
        subject=np.array([v.subject_id for v in outcome.test], dtype=np.str_),
        site=np.array([site_of[v.subject_id] for v in outcome.test], dtype=np.str_),
        baseline=np.array([v.baseline_cdrsb for v in outcome.test]),
        target=np.array([v.delta_cdrsb for v in outcome.test], dtype=np.float64),
        prediction=outcome.predictions,
    )
    if outcome.learning:
        pd.DataFrame(outcome.learning).to_csv(work / "learning.csv", index=False)
    if outcome.rounds:
        pd.DataFrame(outcome.rounds).to_csv(work / "rounds.csv", index=False)
    if outcome.privacy:
        pd.DataFrame(outcome.privacy).to_csv(work / "privacy.csv", index=False)
    if outcome.activation:
        a = outcome.activation
        np.savez(work / "activation.npz", share=a.share, load_cv=a.load_cv, collapsed=a.collapsed_experts)
    card = {
        "cell": cell.model_dump(mode="json"),
        "digest": cell.digest(),
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_mb": round(_peak_memory_mb(), 1),
        "versions": versions(),
        "machine": machine(),
    }
    (work / "card.json").write_text(json.dumps(card, indent=1))
    return _publish(work, folder)


def _forget_peak_memory() -> None:
    """A worker runs many cells: each is to know its own peak. Only Linux can forget the peak so far."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mb() -> float:
    """Largest resident size of this process since it was last forgotten, libraries included."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _publish(work: Path, folder: Path) -> Path:
    shutil.rmtree(work / "federation", ignore_errors=True)
    if not (folder / "card.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        try:
            work.rename(folder)
        except OSError:  # another process finished the same cell in this moment; both hold the same figures
            shutil.rmtree(work, ignore_errors=True)
    else:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _reference(cell: Cell, sites: Sites, cache: VolumeCache, work: Path) -> Outcome:
    data = _load(joined(sites), cell.model, cache)
    test = data.part("test")
    return Outcome(test.visits, BASELINES[cell.method.baseline](data.part("train"), test))


def _centralised(cell: Cell, sites: Sites, cache: VolumeCache, work: Path) -> Outcome:
    data = _load(joined(sites), cell.model, cache)
    model = make_model(fit_scaling(data.part("train"), cell.model), cell.train.seed)
    curve: dict[int, Mapping[str, ErrorSums]] = {}

    def keep(report: EpochReport) -> None:
        curve[report.epoch + 1] = report.validation

    fit(model, data.part("train"), data.part("validation"), cell.train, on_epoch=keep)
    test = data.part("test")
    return Outcome(
        test.visits,
        combination_predictions(model, test),
        _learning(curve, "epoch"),
        activation=expert_activation(model, test),
    )


def _local(cell: Cell, sites: Sites, cache: VolumeCache, work: Path) -> Outcome:
    """Every site by itself: its test visits are judged by the model that only its own visits trained."""
    curve: dict[int, dict[str, ErrorSums]] = {}

    def keep(report: EpochReport) -> None:
        at = curve.setdefault(report.epoch + 1, {})
        for name, sums in report.validation.items():
            at[name] = at[name] + sums if name in at else sums

    tested: list[Visit] = []
    predictions = []
    for table in sites.values():
        data = _load(table, cell.model, cache)
        train, test = data.part("train"), data.part("test")
        model = make_model(fit_scaling(train, cell.model), cell.train.seed)
        fit(model, train, data.part("validation"), cell.train, on_epoch=keep)
        tested += test.visits
        predictions.append(_with_known_modalities(model, train, test))
    return Outcome(VisitTable(tuple(tested)), np.concatenate(predictions), _learning(curve, "epoch"))


def _with_known_modalities(model: PerMMoE, train: VisitData, test: VisitData) -> Float[Array, "visit combination"]:
    """A hospital knows what it never saw in training: such a modality is not used, the rest of the combination is.

    Where nothing is left of it, the mean change of the training visits is predicted.
    """
    known = {name for name, n in zip(train.names, train.observed.sum(0).tolist(), strict=True) if n}
    combinations = all_combinations(test.names)
    predictions = combination_predictions(model, test)
    mean = float(train.target.double().mean())
    asked = predictions.copy()
    for column, combination in enumerate(combinations):
        usable = tuple(name for name in combination if name in known)
        instead = predictions[:, combinations.index(usable)] if usable else np.full(len(test), mean)
        asked[:, column] = np.where(np.isnan(predictions[:, column]), np.nan, instead)
    return asked


def _unimodal(cell: Cell, sites: Sites, cache: VolumeCache, work: Path) -> Outcome:
    """One model a modality, of nothing but that modality, all visits in one place; combinations have no prediction."""
    everything = _load(joined(sites), cell.model, cache)
    test = everything.part("test")
    place = {visit.subject_id: row for row, visit in enumerate(test.visits)}
    predictions = np.full((len(test), len(all_combinations(cell.model.names))), np.nan)
    for column, modality in enumerate(cell.model.modalities):
        config = cell.model.model_copy(update={"modalities": (modality,)})
        data = _load(joined(sites), config, cache)
        train, own = data.part("train"), data.part("test")
        if not len(train) or not len(own):
            continue
        model = make_model(fit_scaling(train, config), cell.train.seed)
        fit(model, train, data.part("validation"), cell.train)
        rows = [place[visit.subject_id] for visit in own.visits]
        predictions[rows, column] = combination_predictions(model, own)[:, 0]
    return Outcome(test.visits, predictions)


def _federated(cell: Cell, sites: Sites, cache: VolumeCache, work: Path) -> Outcome:
    _require_declared_scales(cell.model)
    federation = train_federation(cell, sites, cache.folder, work / "federation")
    model = PerMMoE(cell.model)
    model.load_state_dict(dict(federation.weights))
    test = _load(joined(sites), cell.model, cache).part("test")
    if cell.method.personal_epochs or federation.private:
        tested, predictions = _personal(cell, sites, cache, federation)
    else:
        tested, predictions = test.visits, combination_predictions(model, test)
    return Outcome(
        tested,
        predictions,
        _learning(federation.evaluations, "round"),
        federation.rounds,
        federation.privacy,
        expert_activation(model, test),
    )


def _require_declared_scales(model: ModelConfig) -> None:
    """Nobody in a federation sees all training visits: what a table's columns are scaled by has to be declared."""
    bare = [m.name for m in model.modalities if not kind_of(m).is_scale_declared(m)]
    if bare:
        raise ConfigurationError(
            f"a federation cannot fit the scale of {', '.join(bare)}; "
            "declare `means` and `deviations` of the columns there, from a publication"
        )


def _personal(
    cell: Cell, sites: Sites, cache: VolumeCache, federation: Federation
) -> tuple[VisitTable, Float[Array, "visit combination"]]:
    """Each site's test visits as its own model sees them: with its private modules, fine-tuned where asked for."""
    tested: list[Visit] = []
    predictions = []
    for site, table in sites.items():
        data = _load(table, cell.model, cache)
        model = PerMMoE(cell.model)
        layout = ModuleLayout.of(model)
        modules = layout.flatten_all(dict(federation.weights)) | dict(federation.private.get(site, {}))
        model.load_state_dict(layout.unflatten(modules))
        if cell.method.personal_epochs:
            tuning = cell.train.model_copy(update={"epochs": cell.method.personal_epochs, "warmup_epochs": 0})
            fit(model, data.part("train"), data.part("validation"), tuning, is_centred=True)
        test = data.part("test")
        tested += test.visits
        predictions.append(combination_predictions(model, test))
    return VisitTable(tuple(tested)), np.concatenate(predictions)


RUNNERS = {
    "reference": _reference,
    "centralised": _centralised,
    "local": _local,
    "unimodal": _unimodal,
    "federated": _federated,
}


def _load(table: VisitTable, model: ModelConfig, cache: VolumeCache) -> VisitData:
    data, _ = VisitData.load(table, model, cache, stem=fixed_stem(model))
    return data


def _learning(curve: Mapping[int, Mapping[str, ErrorSums]], step_kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step, sums in sorted(curve.items()):
        mean = {"combination": "mean", "rmse": mean_squared_error(sums) ** 0.5}
        single = [{"combination": name, "rmse": s.rmse} for name, s in sums.items() if s.n]
        rows += [{"step": step, "step_kind": step_kind, **row} for row in [mean, *single]]
    return rows


def read_predictions(folder: Path) -> pd.DataFrame:
    """A finished cell's test visits: subject, site, baseline, target; and a column a combination, the prediction."""
    card = json.loads((folder / "card.json").read_text())
    names = [m["name"] for m in card["cell"]["model"]["modalities"]]
    columns = [combination_name(c) for c in all_combinations(names)]
    with np.load(folder / "predictions.npz") as saved:
        visits = pd.DataFrame({key: saved[key] for key in ("subject", "site", "baseline", "target")})
        return pd.concat([visits, pd.DataFrame(saved["prediction"], columns=columns)], axis=1)
