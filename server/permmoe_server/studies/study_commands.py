"""`permmoe-server study`: the studies of a federation, and whether the present one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from permmoe.errors import ConfigurationError
from permmoe.plain_text import plain
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe.runtime.tables import print_whole
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.folder_locks import is_running
from permmoe_server.studies.extension import extend as make_longer
from permmoe_server.studies.round_log import RoundLog
from permmoe_server.studies.study_folder import Study, current_study, known_studies
from permmoe_server.studies.survey_file import SURVEY_FILE

app = typer.Typer(no_args_is_help=True, help="See the studies; stop one, let it go on, give it more rounds.")
console = Console(highlight=False, soft_wrap=True)

FolderArgument = Annotated[Path, typer.Argument(help="The federation's folder.")]


@app.command("list")
def list_studies(folder: FolderArgument) -> None:
    """Show every study with its state; the present one is what permmoe-server runs without --study."""
    files = FederationFolder(folder)
    present = current_study(files)
    table = Table("study", "what", "present", "state", "rounds", "lost", "secure", "digest")
    for study in known_studies(files):
        is_present = present is not None and study.folder == present.folder
        records = RoundLog(study.rounds).read()
        done, lost = sum(record.is_aggregated for record in records), sum(record.is_used_up for record in records)
        table.add_row(
            Text(plain(study.plan.name)),
            study.plan.kind,
            "yes" if is_present else "",
            _state(study, done + lost, is_running=is_present and is_running(files)),
            f"{done} of {study.plan.federation.rounds}",
            str(lost) if lost else "",
            "yes" if study.plan.federation.secure else "",
            study.plan.digest()[:16],
        )
    print_whole(table)


def _state(study: Study, used: int, *, is_running: bool) -> str:
    if used >= study.plan.federation.rounds or (study.folder / SURVEY_FILE).exists():
        return "finished"
    if study.stop_file.exists():
        return "stopped"
    return "in the running coordinator" if is_running else "not finished"


@app.command()
def stop(folder: FolderArgument) -> None:
    """End the present study after the round that is running; `study resume` lets it go on from there."""
    study = _present(folder)
    write_file(study.stop_file, b"", mode=PUBLIC_MODE)
    console.print("the study stops after the present round, also over restarts, until permmoe-server study resume")


@app.command()
def resume(folder: FolderArgument) -> None:
    """Let the present study go on after `study stop`."""
    study = _present(folder)
    if not study.stop_file.exists():
        raise ConfigurationError("the present study is not stopped; permmoe-server study list shows its state")
    study.stop_file.unlink()
    console.print("the study goes on; where no coordinator runs, start permmoe-server")


@app.command()
def extend(folder: FolderArgument, rounds: Annotated[int, typer.Argument(min=1, help="How many rounds more.")]) -> None:
    """Make a study with more rounds that goes on from the present one; every hospital has to approve it.

    Hospitals approved a number of rounds and answer no further one, so the longer study is another one to them.
    """
    study = _present(folder)
    if study.plan.survey is not None:
        raise ConfigurationError("the present study is a survey, which counts once; give another one another name")
    new = make_longer(FederationFolder(folder), study, rounds)
    console.print(Text(f"study {plain(new.plan.name)} with {new.plan.federation.rounds} rounds in {new.folder}"))
    console.print(f"its digest, which hospitals have to approve: {new.plan.digest()}")
    console.print(Text(f"run it with --study {new.plan_file}; it waits for the approvals"))


def _present(folder: Path) -> Study:
    study = current_study(FederationFolder(folder))
    if study is None:
        raise ConfigurationError(f"no study was run in {folder} yet; name one with permmoe-server --study")
    return study
