"""`permmoe-server survey`: ask hospitals for counts before a study exists, and show which study could be run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from permmoe.config import read_config
from permmoe.errors import ConfigurationError
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.files import write_file
from permmoe.runtime.tables import print_whole
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.running import run_until_end
from permmoe_server.studies.study_folder import study_of
from permmoe_server.studies.survey_file import SURVEY_FILE, SurveyNumbers, read_survey_file

console = Console(highlight=False, soft_wrap=True)


def survey(
    file: Annotated[Path, typer.Argument(help="YAML file of the survey, as configs/surveys/who-could-take-part.yaml.")],
    config: Annotated[Path, typer.Option(help="The server.yaml of the federation's folder.")] = Path("server.yaml"),
    out: Annotated[Path, typer.Option(help="The page that is written.")] = Path("survey.html"),
    power: Annotated[
        Path | None,
        typer.Option(help="power.csv of python simulation/power.py: what a study of as many patients finds."),
    ] = None,
) -> None:
    """Ask hospitals for counts of patients before a study exists, and show which study could be run.

    Waits until `min_sites` hospitals have approved the survey, as a study does. A survey that has its numbers asks
    nobody again: the same command writes the page anew.
    """
    # The page's parts are imported late: the other commands need none of them.
    from permmoe_server.feasibility.page import survey_page
    from permmoe_server.feasibility.power_file import read_power

    plan = read_config(file, RoundPlan)
    if plan.survey is None:
        raise ConfigurationError(
            f"{file} is a study that trains, not a survey: run it with permmoe-server --study, or add 'survey:' to a "
            "copy of it"
        )
    if not config.is_file():
        raise ConfigurationError(f"no file {config}; name the server.yaml that permmoe-server init wrote")
    # A file that cannot be used is refused before hospitals are waited for.
    curves = read_power(power) if power else None
    folder = FederationFolder(config.resolve().parent)
    study = study_of(folder, plan)
    if not (study.folder / SURVEY_FILE).exists():
        run_until_end(folder, file)
    numbers = read_survey_file(study.folder)
    write_file(out, survey_page(numbers, curves))
    _show(numbers)
    console.print(f"the page, with pictures, is {out}; the numbers are in {study.folder / SURVEY_FILE}")


def _show(numbers: SurveyNumbers) -> None:
    from permmoe_server.feasibility.possible_studies import name_of, possible_studies

    table = Table(
        "with these modalities, or more", "patients", "hospitals", "outcome known",
        title=f"{len(numbers.sites)} hospitals answered; all numbers are 'or more'", title_justify="left",
    )  # fmt: skip
    for study in possible_studies(numbers):
        table.add_row(
            Text(name_of(study.modalities)),
            f"{study.patients:,}",
            "" if study.hospitals is None else str(study.hospitals),
            "" if study.known is None else f"{study.known:,}" if study.known else "–",
        )
    if numbers.plan.is_synthetic:
        console.print("SYNTHETIC data: a program made these patients")
    print_whole(table)
