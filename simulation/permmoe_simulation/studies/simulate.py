"""Run a whole study: the data, every cell that is not on disk yet, the tables, the report.

Everything lies in one folder. `cells/<digest>/` keeps each finished cell, so a study that was killed, changed or
extended only runs what is missing. Cohorts and preprocessed volumes may lie in a folder that studies share.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from permmoe.data.quarantine import Quarantine
from permmoe.errors import ConfigurationError, PermmoeError
from permmoe.runtime.devices import CPU, may_fall_back
from permmoe.runtime.tracking.tracker import NOT_TRACKED, Tracking
from permmoe.runtime.workers import import_beforehand, worker_pool
from permmoe_simulation.engines.engine import Engine
from permmoe_simulation.engines.ray_cluster import ADDRESS, ray_cluster
from permmoe_simulation.report import SECTIONS, ReportSection, render_report
from permmoe_simulation.studies.cell import (
    Ended,
    gpu_bytes_of,
    gpu_memory_key,
    run_cells,
    split_and_partition,
    wants_gpu,
)
from permmoe_simulation.studies.cell_files import FinishedCell, cell_folder, delete_unfinished, is_finished
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.studies.folder_lock import only_process
from permmoe_simulation.studies.gpu_places import Job, Places, done_in_places, study_gpus
from permmoe_simulation.studies.prediction_errors import PredictionErrors
from permmoe_simulation.studies.progress import Progress
from permmoe_simulation.studies.sources import StudyData, prepare_data
from permmoe_simulation.studies.stacked_cells import in_stacks, run_cells_together
from permmoe_simulation.studies.study import AGAIN, Cell, StudyConfig, cells, cells_trained_again, data_source
from permmoe_simulation.studies.study_output import RunFacts, summary_of, write_slices, write_tables
from permmoe_simulation.studies.tracked_study import track_cell, track_study

Grid = Sequence[tuple[str, Cell]]
"""(method name, cell) for every cell of a study."""


DEVICE_HELP = "Trains models, hospitals' too: cpu, cuda (all GPUs), cuda:N, or auto (where it is faster)."


@dataclass(frozen=True)
class RunOptions:
    """How a study is run, as opposed to what it compares."""

    shared: Path
    """The folder of cohorts and volumes, which may be the study's own."""
    engine: Engine = "inprocess"
    workers: int = 1
    """How many cells run at a time, each in a process; and the CPUs of a Ray that is started for the study."""
    only: str = "*"
    """A pattern of METHOD/REGIME/SEED; of the other cells only those that are on disk go into the tables."""
    command: str = ""
    """The command that repeats the run, for the report."""
    sections: Sequence[ReportSection] = SECTIONS
    """What the report shows, and so which tables are written."""
    device: str = CPU
    """Where models are trained, as `--device` names it (DEVICE_HELP)."""
    side_by_side: bool = False
    """Whether models of one method are trained together, each with other random numbers than by itself."""
    tracking: Tracking = NOT_TRACKED
    """Where cells, as they finish, and the study's results are tracked besides."""


@dataclass(frozen=True)
class StudyOutcome:
    """What a study ended with."""

    report: Path
    findings: tuple[str, ...]
    failed: tuple[str, ...]
    """Cells that did not finish, each with the type of its error."""
    seconds: float


def run_study(study: StudyConfig, out: Path, options: RunOptions, progress: Progress) -> StudyOutcome:
    """Run what is missing in the folder `out` and write the tables and the report there.

    One process at a time works in a folder; a second one waits, and then finds everything done. Raises PermmoeError for
    data that cannot be used, and where no cell finished.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"results cannot be written to {out} ({error.strerror}); name another --out") from None
    # torch._dynamo is what PyTorch's optimisers import when the first is made, for a second or two.
    import_beforehand(
        "permmoe_simulation.studies.stacked_cells", "permmoe_simulation.studies.method_runners", "torch._dynamo"
    )
    with ExitStack() as stack:
        stack.enter_context(only_process(out, progress.note))
        environment: dict[str, str] = {}
        if options.engine == "ray":
            options.shared.mkdir(parents=True, exist_ok=True)
            folders = (out, options.shared)
            environment[ADDRESS] = stack.enter_context(ray_cluster(options.workers, options.device, folders))
        return _run_locked(study, out, options, environment, progress)


def _run_locked(
    study: StudyConfig, out: Path, options: RunOptions, environment: Mapping[str, str], progress: Progress
) -> StudyOutcome:
    started = time.perf_counter()
    # Before anything is prepared: a GPU that is missing is no surprise of an hour later.
    gpus = study_gpus(options.device, progress)
    delete_unfinished(out / "cells")
    with ExitStack() as stack:
        if options.shared.resolve() != out.resolve():
            options.shared.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_process(options.shared, progress.note))
        data = _data_by_regime(study, options, progress)
    different = list({d.digest: d for d in data.values()}.values())
    sum((d.quarantine for d in different), Quarantine(())).write(out / "quarantine.csv")
    grid = all_cells(study, {regime: d.digest for regime, d in data.items()}, options.engine)
    left_out = sites_left_out(grid, data)
    for line in left_out:
        progress.note(f"left out: {line}")
    wanted = [(name, cell) for name, cell in grid if _is_wanted(name, cell, options.only, out / "cells")]
    if not wanted:
        raise ConfigurationError(f"no cell is called {options.only}; `--list` lists them, as METHOD/REGIME/SEED")
    finished, failed = _run_cells(study, wanted, data, out / "cells", options, gpus, environment, progress)
    if not finished:
        raise PermmoeError(f"no cell of the study finished; the first error, shown in full above: {failed[0]}")
    progress.stage("report", 1)
    first = grid[0][1]
    sites, sites_out = split_and_partition(data[first.regime].visits, first)
    own = [cell for cell in finished if cell.method in study.methods]
    if not own:
        raise PermmoeError(f"only cells of a second training ({AGAIN}) finished; run those of the methods themselves")
    done = FinishedStudy(study, own, _prediction_errors(study, own), sites, _errors_of_twins(study, finished))
    compared = write_tables(done, options.sections, out)
    write_slices(study, data[first.regime], out)
    facts = RunFacts(
        failed=failed,
        left_out_sites=len(sites_out),
        left_out=left_out,
        command=options.command,
        seconds=round(time.perf_counter() - started, 1),
        peak_memory_mb=_peak_memory_mb(options.workers),
        date=time.strftime("%Y-%m-%d"),
    )
    summary = summary_of(done, compared, different, facts)
    summary.write(out)
    track_study(options.tracking, study, out, summary.digests)
    report = render_report(out, options.sections)
    progress.step("report.html")
    return StudyOutcome(report, (*summary.findings, *summary.ladder), tuple(failed), facts.seconds)


def all_cells(study: StudyConfig, data_digests: Mapping[str, str], engine: Engine) -> Grid:
    """Every cell that a study runs: those that it compares, and those of the method that it trains again."""
    return [*cells(study, data_digests, engine), *cells_trained_again(study, data_digests, engine)]


def cell_name(method: str, cell: Cell) -> str:
    """METHOD/REGIME/SEED, as `--list` shows it and `--only` takes it."""
    return f"{method}/{cell.regime}/{cell.seed}"


def _is_wanted(method: str, cell: Cell, only: str, folder: Path) -> bool:
    return is_finished(cell_folder(folder, cell)) or fnmatchcase(cell_name(method, cell), only)


def _data_by_regime(study: StudyConfig, options: RunOptions, progress: Progress) -> dict[str, StudyData]:
    """Each regime's data; regimes with the same source share one object."""
    found: dict[str, StudyData] = {}
    sources = {regime: data_source(study, regime) for regime in study.regimes}
    for regime, source in sources.items():
        same = [other for other in found if sources[other] == source]
        found[regime] = (
            found[same[0]]
            if same
            else prepare_data(
                source, study.model, options.shared, options.workers, progress, study.modalities, study.covariates
            )
        )
    return found


def _prediction_errors(study: StudyConfig, finished: Sequence[FinishedCell]) -> PredictionErrors:
    return PredictionErrors(finished, study.model.names, study.seeds, study.outcome.strata)


def _errors_of_twins(study: StudyConfig, finished: Sequence[FinishedCell]) -> PredictionErrors | None:
    """The errors of the method that is trained twice, under both names; None where the second training is missing."""
    again = study.name_trained_again
    twins = [cell for cell in finished if cell.method in (study.trained_again, again)]
    return _prediction_errors(study, twins) if any(cell.method == again for cell in twins) else None


def sites_left_out(grid: Grid, data: Mapping[str, StudyData]) -> list[str]:
    """A line for each site without enough training visits. Raises ConfigurationError for an impossible partition."""
    lines = []
    for cell in {(cell.regime, cell.seed): cell for _, cell in grid}.values():
        for site, table in split_and_partition(data[cell.regime].visits, cell)[1].items():
            lines.append(f"site {site} of {cell.regime}, seed {cell.seed}: too few of its {len(table)} visits train")
    return lines


def _run_cells(
    study: StudyConfig,
    grid: Grid,
    data: Mapping[str, StudyData],
    folder: Path,
    options: RunOptions,
    gpus: Mapping[str, int],
    environment: Mapping[str, str],
    progress: Progress,
) -> tuple[list[FinishedCell], list[str]]:
    """Run the cells in worker processes; return the finished ones in the grid's order, and a line for each failure."""
    progress.stage("cells", len(grid))
    finished: list[FinishedCell] = []
    failed: list[str] = []
    with worker_pool(options.workers, is_process_new=bool(gpus), environment=environment) as pool:
        missing: list[tuple[str, Cell]] = []
        for name, cell in grid:
            target = cell_folder(folder, cell)
            if is_finished(target):
                # No process has to start for it.
                finished.append(FinishedCell(name, cell.regime, cell.seed, target))
                track_cell(options.tracking, study, cell, finished[-1])
                progress.step(_label(name, cell))
            else:
                missing.append((name, cell))
        jobs: list[Job[list[tuple[str, Cell]], list[Ended]]] = []
        for together in in_stacks(missing) if options.side_by_side else [[one] for one in missing]:
            cells = [cell for _, cell in together]
            own, targets = data[cells[0].regime], [cell_folder(folder, cell) for cell in cells]
            run = run_cells_together if options.side_by_side else run_cells
            work = partial(run, cells, own.visits, own.cache, targets)
            jobs.append(Job(together, work, wants_gpu(cells, options.device), gpu_memory_key(cells)))
        places = Places(gpus, falls_back=may_fall_back(options.device))
        try:
            for done, future in done_in_places(pool, jobs, options.workers, places, gpu_bytes_of):
                error = future.exception()
                for (name, cell), ended in zip(done, [error] * len(done) if error else future.result(), strict=True):
                    label = _label(name, cell)
                    if isinstance(ended, Path):
                        finished.append(FinishedCell(name, cell.regime, cell.seed, ended))
                        track_cell(options.tracking, study, cell, finished[-1])
                    else:
                        failed.append(f"{label}: {type(ended).__name__}")
                        progress.note(f"failed: {failed[-1]}: {ended}")
                    progress.step(label)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    order = {(name, cell.regime, cell.seed): i for i, (name, cell) in enumerate(grid)}
    finished.sort(key=lambda c: order[c.method, c.regime, c.seed])
    return finished, sorted(failed)


def _label(name: str, cell: Cell) -> str:
    return f"{name}, {cell.regime}, seed {cell.seed}"


def _peak_memory_mb(workers: int) -> int:
    """An upper bound: this process's peak, and the largest worker's once for each worker."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return (own + workers * child) // 1024
