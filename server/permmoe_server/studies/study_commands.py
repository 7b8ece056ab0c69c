"""`permmoe-server study`: the studies of a federation, whether the present one runs, and what follows from it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from permmoe.errors import ConfigurationError
from permmoe.federated.plan import read_plan
from permmoe.plain_text import plain
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe.runtime.tables import print_whole
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.folder_locks import is_running
from permmoe_server.studies.extension import extend as make_longer
from permmoe_server.studies.round_log import RoundLog
from permmoe_server.studies.study_folder import Study, current_study, known_studies, study_of
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


@app.command()
def forget(
    folder: FolderArgument,
    site: Annotated[str, typer.Argument(help="The hospital that withdrew, or whose patients did.")],
    patients: Annotated[
        str, typer.Option(help="Patients of it withdrew: the digest that permmoe-client withdraw said there.")
    ] = "",
    withdrawal: Annotated[
        str, typer.Option(help="The hospital itself withdrew: the digest, where it could be asked for it.")
    ] = "",
    study: Annotated[
        Path | None, typer.Option(help="The plan.json in the folder of a study, in place of the present one.")
    ] = None,
) -> None:
    """Make a study that trains the present one anew without a hospital, or without its patients who withdrew.

    It goes on from the newest model that never saw them, and hospitals approve it. Registered models that have seen
    them are used no more. When it has finished, permmoe-server study certify writes the certificate.
    """
    # It needs PyTorch, which takes seconds to import; the other commands do not.
    from permmoe_server.studies.forgetting import forget as make_follow_up

    if patients and withdrawal:
        raise ConfigurationError("patients withdrew, or the hospital did: give --patients or --withdrawal, not both")
    files = FederationFolder(folder)
    old = _present(folder) if study is None else study_of(files, read_plan(study))
    made = make_follow_up(files, old, site, patients or withdrawal, datetime.now(UTC), is_whole_site=not patients)
    plan = made.study.plan
    assert plan.forgets
    first = plan.forgets.first_round
    whom = f"{plain(site)}'s patients who withdrew" if patients else plain(site)
    begins = "its first weights" if first == 1 else f"the model before round {first}"
    console.print(Text(f"study {plain(plan.name)} without {whom} in {made.study.folder}"))
    console.print(f"it begins with {begins}, which never saw them; rounds to run: {plan.federation.rounds - first + 1}")
    console.print(f"its digest, which hospitals have to approve: {plan.digest()}")
    if made.withdrawn:
        console.print(f"used no more, since they have seen them: {', '.join(made.withdrawn)}")
    if made.left_out:
        others = plain(", ".join(made.left_out))
        console.print(Text(f"in no secure sum of it either, so that nobody's own numbers follow: {others}"))
    if made.elsewhere:
        others = plain(", ".join(made.elsewhere))
        console.print(Text(f"{plain(site)} also took part in {others}; run the command for each with --study"))
    console.print(Text(f"run it with --study {made.study.plan_file}; it waits for the approvals"))


@app.command()
def certify(folder: FolderArgument) -> None:
    """Write the signed certificate of the present study, once it has finished, that its model never saw who withdrew.

    The hospital checks it against its own ledger and countersigns it there: permmoe-client ledger countersign.
    """
    from permmoe_server.studies.certification import certified

    path = certified(FederationFolder(folder), _present(folder))
    console.print(Text(f"the certificate is in {path}; it names no patient: hand it to the hospital"))


def _present(folder: Path) -> Study:
    study = current_study(FederationFolder(folder))
    if study is None:
        raise ConfigurationError(f"no study was run in {folder} yet; name one with permmoe-server --study")
    return study
