"""Run a whole study: the data, every cell that is not on disk yet, the tables, the report.

Everything lies in one folder. `cells/<digest>/` keeps each finished cell, so a study that was killed, changed or
extended only runs what is missing. Cohorts and preprocessed volumes may lie in a folder that studies share.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml

from permmoe.data.cache import VolumeCache
from permmoe.data.quarantine import Quarantine
from permmoe.data.visits import VisitTable
from permmoe.errors import ConfigurationError, PermmoeError
from permmoe.runtime.provenance import machine, versions
from permmoe.runtime.workers import import_beforehand, worker_pool
from permmoe_simulation.report import render_report
from permmoe_simulation.studies.cell import is_finished, run_cell, split_and_partition
from permmoe_simulation.studies.findings import findings, judge_claims
from permmoe_simulation.studies.results import (
    FinishedCell,
    StudyErrors,
    activation_tables,
    axis_scale,
    cell_costs,
    gather,
)
from permmoe_simulation.studies.sources import Progress, StudyData, prepare_data
from permmoe_simulation.studies.study import MEAN, Cell, StudyConfig, cells, data_source

Engine = Literal["inprocess", "ray"]


@dataclass(frozen=True)
class StudyOutcome:
    """What a study ended with."""

    report: Path
    findings: tuple[str, ...]
    failed: tuple[str, ...]
    """Cells that did not finish, each with the type of its error."""
    seconds: float


def run_study(
    study: StudyConfig,
    out: Path,
    *,
    engine: Engine,
    workers: int,
    command: str,
    progress: Progress,
    shared: Path,
    only: str = "*",
) -> StudyOutcome:
    """Run what is missing and write the tables and the report. Raises PermmoeError for data that cannot be used.

    `shared`: folder of cohorts and volumes, which may be the study's own. `only`: a pattern of METHOD/REGIME/SEED; of
    the other cells only those that are on disk go into the tables. One process at a time works in a folder; a second
    one waits, and then finds everything done.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"results cannot be written to {out} ({error.strerror}); name another --out") from None
    import_beforehand("permmoe_simulation.studies.cell")
    with only_process(out, progress.note):
        return _run_study(study, out, engine, workers, command, progress, shared, only)


@contextmanager
def only_process(folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder's lock, which ends with this process however it ends."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"another process is at work in {folder}; waiting until it is done")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run_study(
    study: StudyConfig,
    out: Path,
    engine: Engine,
    workers: int,
    command: str,
    progress: Progress,
    shared: Path,
    only: str,
) -> StudyOutcome:
    started = time.perf_counter()
    for unfinished in (out / "cells").glob("*.unfinished"):
        shutil.rmtree(unfinished)
    with ExitStack() as stack:
        if shared.resolve() != out.resolve():
            shared.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_process(shared, progress.note))
        data = _data_by_regime(study, shared, workers, progress)
    sum((d.quarantine for d in _different(data)), Quarantine(())).write(out / "quarantine.csv")
    grid = cells(study, {regime: d.digest for regime, d in data.items()}, engine)
    left_out = sites_left_out(grid, data)
    for line in left_out:
        progress.note(f"left out: {line}")
    wanted = [(name, cell) for name, cell in grid if _is_wanted(name, cell, only, out / "cells")]
    if not wanted:
        raise ConfigurationError(f"no cell is called {only}; `--list` lists them, as METHOD/REGIME/SEED")
    finished, failed = _run_cells(wanted, data, out / "cells", workers, progress)
    if not finished:
        raise PermmoeError(f"no cell of the study finished; the first error, told in full above: {failed[0]}")
    progress.stage("report", 1)
    summary = _write_tables(study, data, finished, failed, grid, out)
    summary |= {
        "left_out_sites": len(split_and_partition(data[grid[0][1].regime].visits, grid[0][1])[1]),
        "left_out": left_out,
        "command": command,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_memory_mb": _peak_memory_mb(workers),
        "date": time.strftime("%Y-%m-%d"),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    report = render_report(out)
    progress.step("report.html")
    return StudyOutcome(report, tuple(summary["findings"]), tuple(failed), summary["seconds"])


def cell_name(method: str, cell: Cell) -> str:
    """METHOD/REGIME/SEED, as `--list` shows it and `--only` takes it."""
    return f"{method}/{cell.regime}/{cell.seed}"


def _is_wanted(method: str, cell: Cell, only: str, folder: Path) -> bool:
    return is_finished(folder / cell.digest()[:16]) or fnmatchcase(cell_name(method, cell), only)


def _data_by_regime(study: StudyConfig, shared: Path, workers: int, progress: Progress) -> dict[str, StudyData]:
    """Each regime's data; those of equal regimes are one object."""
    found: dict[str, StudyData] = {}
    sources = {regime: data_source(study, regime) for regime in study.regimes}
    for regime, source in sources.items():
        same = [other for other in found if sources[other] == source]
        found[regime] = found[same[0]] if same else prepare_data(source, study.model, shared, workers, progress)
    return found


def _different(data: Mapping[str, StudyData]) -> list[StudyData]:
    return list({d.digest: d for d in data.values()}.values())


def sites_left_out(grid: Sequence[tuple[str, Cell]], data: Mapping[str, StudyData]) -> list[str]:
    """A line for each site without enough training visits. Raises ConfigurationError for an impossible partition."""
    lines = []
    for cell in {(cell.regime, cell.seed): cell for _, cell in grid}.values():
        for site, table in split_and_partition(data[cell.regime].visits, cell)[1].items():
            lines.append(f"site {site} of {cell.regime}, seed {cell.seed}: too few of its {len(table)} visits train")
    return lines


def _run_cells(
    grid: Sequence[tuple[str, Cell]],
    data: Mapping[str, StudyData],
    folder: Path,
    workers: int,
    progress: Progress,
) -> tuple[list[FinishedCell], list[str]]:
    """Run the cells in worker processes; one that fails is itemised and the rest go on."""
    progress.stage("cells", len(grid))
    finished: list[FinishedCell] = []
    failed: list[str] = []
    with worker_pool(workers) as pool:
        futures: dict[Future[Path], tuple[str, Cell]] = {}
        for name, cell in grid:
            target = folder / cell.digest()[:16]
            if is_finished(target):
                # No process need start for it.
                finished.append(FinishedCell(name, cell.regime, cell.seed, target))
                progress.step(_label(name, cell))
                continue
            of = data[cell.regime]
            futures[pool.submit(run_cell, cell, of.visits, of.cache, target)] = (name, cell)
        try:
            for future in as_completed(futures):
                name, cell = futures[future]
                label = _label(name, cell)
                error = future.exception()
                if error is None:
                    finished.append(FinishedCell(name, cell.regime, cell.seed, future.result()))
                else:
                    failed.append(f"{label}: {type(error).__name__}")
                    progress.note(f"failed: {failed[-1]}: {error}")
                progress.step(label)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    order = {(name, cell.regime, cell.seed): i for i, (name, cell) in enumerate(grid)}
    finished.sort(key=lambda c: order[c.method, c.regime, c.seed])
    return finished, sorted(failed)


def _label(name: str, cell: Cell) -> str:
    return f"{name}, {cell.regime}, seed {cell.seed}"


def _write_tables(
    study: StudyConfig,
    data: Mapping[str, StudyData],
    finished: Sequence[FinishedCell],
    failed: Sequence[str],
    grid: Sequence[tuple[str, Cell]],
    out: Path,
) -> dict[str, Any]:
    first = data[grid[0][1].regime]
    names = study.model.names
    errors = StudyErrors(finished, names, study.seeds, study.bootstrap_resamples, study.outcome.strata)
    errors.results().to_csv(out / "results.csv", index=False)
    comparisons = errors.comparisons(study.pairs)
    comparisons.to_csv(out / "comparisons.csv", index=False)
    percent_changes, wins = errors.percent_changes(study.pairs)
    gaps = errors.gaps(study.gap.lower, study.gap.upper) if study.gap else pd.DataFrame()
    activation, routing = activation_tables(finished, names)
    tables = {
        "learning": gather(finished, "learning.csv"),
        "rounds": gather(finished, "rounds.csv"),
        "privacy": gather(finished, "privacy.csv"),
        "activation": activation,
        "routing": routing,
        "sites": site_table(grid[0][1], first.visits),
        "site_results": errors.by_site(),
        "gaps": gaps,
        "percent_changes": percent_changes,
        "wins": wins,
        "drift": errors.drift(),
        "costs": cell_costs(finished),
        **_axis_tables(study, errors),
    }
    for name, table in tables.items():
        if len(table):
            table.to_csv(out / f"{name}.csv", index=False)
        else:
            (out / f"{name}.csv").unlink(missing_ok=True)  # of an earlier run of the study
    slices: dict[str, Any] = example_slices(first.visits, study, first.cache)
    if slices:
        np.savez(out / "slices.npz", **slices)
    labels = {name: m.label for name, m in study.methods.items()}
    goals = judge_claims(study.claims, comparisons, labels)
    return {
        "study": study.name,
        "synthetic": study.data.synthetic is not None,
        "source": source_kind(study),
        "data": study.description,
        "outcome": study.outcome.model_dump(),
        "axis": _axis(study),
        "published": [p.model_dump(mode="json") for p in study.published],
        "methods": {n: m.model_dump(include={"label", "description", "kind"}) for n, m in study.methods.items()},
        "modalities": list(names),
        "findings": findings(goals, study.outcome.unit, names_regime=len(study.regimes) > 1),
        "goals": goals,
        "configuration": yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False),
        "versions": versions(),
        "machine": machine(),
        "digests": {"data": _combined(d.visits.digest() for d in _different(data)), "study": study.digest()},
        "seeds": list(study.seeds),
        "failed_cells": list(failed),
        "quarantine": dict(sum((d.quarantine for d in _different(data)), Quarantine(())).counts()),
    }  # fmt: skip


def source_kind(study: StudyConfig) -> Literal["synthetic", "manifest", "public"]:
    """Where the study's visits come from: made by a program, a hospital's or cohort's own, or a public table."""
    if study.data.synthetic is not None:
        return "synthetic"
    return "public" if study.data.manifest is None else "manifest"


def _axis(study: StudyConfig) -> dict[str, Any] | None:
    """The study's axis as the report needs it; None where there are not two places on it."""
    values = {name: regime.value for name, regime in study.regimes.items() if regime.value is not None}
    if len(set(values.values())) < 2:
        return None
    return {"name": study.axis, "values": values, "scale": axis_scale(list(values.values()))}


def _axis_tables(study: StudyConfig, errors: StudyErrors) -> dict[str, pd.DataFrame]:
    """How errors and differences change along the axis: averaged over combinations, and for those of a claim."""
    axis = _axis(study)
    if axis is None:
        return {"along_axis": pd.DataFrame(), "trends": pd.DataFrame()}
    combinations = list(dict.fromkeys([MEAN, *(claim.combination for claim in study.claims)]))
    return {
        "along_axis": errors.along_axis(axis["values"], combinations),
        "trends": errors.trends(axis["values"], study.pairs, combinations),
    }


def _combined(digests: Iterable[str]) -> str:
    """One data set's digest as it is, several as one."""
    several = list(digests)
    return several[0] if len(several) == 1 else hashlib.sha256("".join(several).encode()).hexdigest()


def site_table(cell: Cell, visits: VisitTable) -> pd.DataFrame:
    """Visits of each site by modality and by part, for the partition of one cell."""
    sites, _ = split_and_partition(visits, cell)
    rows: list[Mapping[str, Any]] = []
    for site, table in sites.items():
        counts = {name: sum(name in v.observed(cell.model.names) for v in table) for name in cell.model.names}
        parts = {part: sum(v.split == part for v in table) for part in ("train", "validation", "test")}
        rows.append({"site": site, **counts, **parts})
    return pd.DataFrame(rows)


def example_slices(visits: VisitTable, study: StudyConfig, cache: Path) -> dict[str, np.ndarray]:
    """The middle axial and coronal slice of each volume modality of a visit that has most of them.

    Only made for synthetic cohorts: a report must not show a patient.
    """
    if study.data.synthetic is None:
        return {}
    visit = max(visits, key=lambda v: (len(v.volumes), v.subject_id))
    slices: dict[str, np.ndarray] = {}
    for modality in study.model.modalities:
        if modality.name in visit.volumes:
            volume = VolumeCache(cache).get(visit.volumes[modality.name], modality, study.model.grid)
            middle = [n // 2 for n in volume.shape]
            slices[f"{modality.name}_axial"] = np.asarray(volume[:, :, middle[2]], dtype=np.float32)
            slices[f"{modality.name}_coronal"] = np.asarray(volume[:, middle[1], :], dtype=np.float32)
    return slices


def _peak_memory_mb(workers: int) -> int:
    """Upper bound: this process's peak, and the largest worker's once for each worker."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return (own + workers * child) // 1024
