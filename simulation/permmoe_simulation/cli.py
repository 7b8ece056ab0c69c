"""`python simulation/run.py [STUDY.yaml]`: run a study and write its report."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import TaskID

from permmoe.config import parse_config, read_config
from permmoe.runtime.command_line import run
from permmoe.runtime.devices import CPU
from permmoe.runtime.tracking.tracker import TRACK_HELP, tracking_to
from permmoe_simulation.engines.engine import Engine
from permmoe_simulation.progress_bars import study_bars
from permmoe_simulation.studies.progress import Progress
from permmoe_simulation.studies.simulate import DEVICE_HELP, RunOptions, all_cells, cell_name, run_study
from permmoe_simulation.studies.study import StudyConfig, at_profile

DEFAULT_STUDY = Path(__file__).parents[2] / "configs" / "studies" / "default.yaml"


def simulate(
    study: Annotated[Path, typer.Argument(help="The study's YAML file.")] = DEFAULT_STUDY,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; runs/<study> if left out, or runs/<study>-<profile>.")
    ] = None,
    engine: Annotated[Engine, typer.Option(help="Ray is for many cores or a cluster.")] = "inprocess",
    workers: Annotated[int, typer.Option(min=1, help="Cells at a time, each on one core.")] = os.cpu_count() or 1,
    profile: Annotated[str, typer.Option(help="Which of the study's profiles.")] = "quick",
    shared: Annotated[Path, typer.Option(help="Cohorts and volumes that studies share.")] = Path("runs/shared"),
    only: Annotated[str, typer.Option(help="Run only cells like METHOD/REGIME/SEED; * stands for anything.")] = "*",
    list_cells: Annotated[bool, typer.Option("--list", help="List the cells and run nothing.")] = False,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = CPU,
    side_by_side: Annotated[
        bool,
        typer.Option(
            "--side-by-side",
            help="Train seeds, hospitals and members of a method as one, for a GPU's sake; each draws other random "
            "numbers than by itself.",
        ),
    ] = False,
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds instead of the study's own.")] = "",
    track: Annotated[str, typer.Option(help=TRACK_HELP)] = "",
) -> None:
    """Run every missing cell of a study, then write its tables and report.html."""
    console = Console()
    tracking = tracking_to(track, lambda sentence: console.print(f"warning: {sentence}", markup=False))
    settings = at_profile(read_config(study, StudyConfig), profile)
    if seeds:
        settings = parse_config({**settings.model_dump(), "seeds": _seeds(seeds)}, StudyConfig, "--seeds")
    if list_cells:
        grid = all_cells(settings, dict.fromkeys(settings.regimes, ""), engine)
        for name, cell in grid:
            print(cell_name(name, cell))
        console.print(f"{len(grid)} cells", highlight=False)
        return
    folder = out or Path("runs") / settings.name
    command = shlex.join(["python", "simulation/run.py", *sys.argv[1:]])
    with study_bars(console) as bar:
        current: list[TaskID] = []

        def stage(name: str, steps: int) -> None:
            current.append(bar.add_task(name, total=steps, last=""))

        def step(what: str) -> None:
            bar.update(current[-1], advance=1, last=what)

        outcome = run_study(
            settings,
            folder,
            RunOptions(
                shared, engine, workers, only, command, device=device, side_by_side=side_by_side, tracking=tracking
            ),
            Progress(stage, step, lambda text: console.print(text, markup=False, highlight=False)),
        )
    for sentence in outcome.findings:
        console.print(sentence, highlight=False)
    synthetic = "synthetic data; " if settings.data.is_invented else ""
    console.print(
        f"{settings.name}: {synthetic}{len(outcome.failed)} cell(s) failed, {outcome.seconds:.0f} s, "
        f"report: {outcome.report}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if outcome.failed:
        raise typer.Exit(1)


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r}: expected whole numbers such as 0,1,2") from None


def main() -> None:
    """Run the command of `simulation/run.py`."""
    run(lambda: typer.run(simulate))
