"""`python simulation/power.py [POWER.yaml]`: run a power study and write its tables, curves and page."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from permmoe.config import read_config
from permmoe.errors import ConfigurationError
from permmoe.runtime.command_line import run
from permmoe.runtime.devices import CPU
from permmoe.runtime.provenance import versions
from permmoe_simulation.power.curves import POWER, power_rows
from permmoe_simulation.power.page import PowerFindings, RunOfPage, power_page, power_svg
from permmoe_simulation.power.plan import PowerConfig, claimed_study, power_at_profile
from permmoe_simulation.power.run import number_of_cells, run_power, studies_of
from permmoe_simulation.power.verdicts import VERDICTS, truths
from permmoe_simulation.progress_bars import study_bars
from permmoe_simulation.studies.progress import Progress
from permmoe_simulation.studies.simulate import DEVICE_HELP
from permmoe_simulation.studies.study import StudyConfig

DEFAULT = Path(__file__).parents[3] / "configs" / "power" / "known-truth.yaml"


def measure(
    config: Annotated[Path, typer.Argument(help="The power study's YAML file.")] = DEFAULT,
    out: Annotated[Path, typer.Option(help="Folder of the studies and of power.csv.")] = Path("runs/power"),
    page: Annotated[
        Path | None, typer.Option(help="The Markdown page, with its curves beside it; in the folder if left out.")
    ] = None,
    profile: Annotated[str, typer.Option(help="Which of the power study's profiles.")] = "quick",
    workers: Annotated[int, typer.Option(min=1, help="Cells at a time, each on one core.")] = os.cpu_count() or 1,
    device: Annotated[str, typer.Option(help=DEVICE_HELP)] = CPU,
    list_studies: Annotated[bool, typer.Option("--list", help="List the studies and run nothing.")] = False,
) -> None:
    """Plant cohorts of several sizes, run the study of each, and say how many patients each claim needs."""
    console = Console(highlight=False, soft_wrap=True)
    plan = power_at_profile(read_config(config, PowerConfig), profile)
    claimed = claimed_study(plan, read_config(config.parent / plan.study, StudyConfig))
    studies = studies_of(plan, claimed)
    if list_studies:
        for _, _, study in studies:
            print(study.name)
    total = number_of_cells(studies)
    console.print(f"{len(studies)} studies, {total:,} cells")
    if list_studies:
        return
    _require_folder(out)
    command = shlex.join(["python", "simulation/power.py", *sys.argv[1:]])
    with study_bars(console) as bar:
        task = bar.add_task("cells", total=total, last="")
        current: list[str] = []

        def step(what: str) -> None:
            bar.update(task, advance=1 if current[-1] == "cells" else 0, last=what)

        progress = Progress(
            lambda name, steps: current.append(name), step, lambda text: console.print(text, markup=False)
        )
        outcome = run_power(studies, out, workers, command, progress, device)
    design = truths(studies[0][2])
    VERDICTS.write(outcome.verdicts, out)
    power = power_rows(outcome.verdicts, design)
    POWER.write(power, out)
    found = PowerFindings(plan, claimed, power, design, outcome.failed)
    shown = page or out / "power.md"
    figure = shown.with_suffix(".svg")
    digests = {"power study": plan.digest(), "study": claimed.digest()}
    figure.write_text(power_svg(found))
    made = RunOfPage(command, time.strftime("%Y-%m-%d"), versions(), digests)
    shown.write_text(power_page(found, made, figure.name))
    console.print(f"synthetic data; {len(outcome.failed)} cell(s) failed; {out / POWER.file_name} and {shown}")
    if outcome.failed:
        raise typer.Exit(1)


def _require_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"results cannot be written to {out} ({error.strerror}); name another --out") from None


def main() -> None:
    """Run the command of `simulation/power.py`."""
    run(lambda: typer.run(measure))
