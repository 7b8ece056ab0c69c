"""`permmoe-client withdraw`: patients, or the whole hospital, take part no more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import typer

from permmoe.errors import ConfigurationError
from permmoe_client.command_options import SiteOption, ledger_of, say, site_file
from permmoe_client.release.ledger import Ledger
from permmoe_client.site import SiteConfig, read_site


def withdraw(
    context: click.Context,
    subjects: Annotated[list[str] | None, typer.Argument(help="Patients, as the site's tables name them.")] = None,
    file: Annotated[Path | None, typer.Option(help="A text file of patients, one a line.")] = None,
    whole_hospital: Annotated[
        bool, typer.Option("--whole-hospital", help="Everybody here withdraws, and whoever is still to come.")
    ] = False,
    even_unknown: Annotated[
        bool,
        typer.Option("--even-unknown", help="Also whom the tables do not name: rows may have been removed."),
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="Show who withdrew, one a line, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts of somebody who has read this.")] = False,
    site: SiteOption = None,
) -> None:
    """Take patients out of every training, evaluation, survey and calibration, for good.

    It counts from the next message on, over restarts too, and cannot be taken back. Models that were trained before
    have seen them: the coordinator trains these anew (permmoe-server study forget). What studies kept at this site
    alone, in `state`, is removed. The list stays here; the ledger has a signed entry, which names nobody.
    """
    from permmoe_client.participation.study_memory import forget_studies
    from permmoe_client.release.withdrawals import WithdrawalList

    config = read_site(site_file(context, site))
    ledger = ledger_of(config)
    withdrawals = WithdrawalList(ledger)
    if show:
        for subject in withdrawals.read().subjects:
            typer.echo(subject)
        return
    named = _named(subjects or [], file)
    if not named and not whole_hospital:
        raise ConfigurationError("name patients, or a --file of them, or say --whole-hospital; nothing was changed")
    if not even_unknown:
        _require_known(named, config, ledger)
    who = f"{len(named)} patient(s) of" if not whole_hospital else "everybody of"
    if not yes and not typer.confirm(f"Withdraw {who} site {config.name}? It cannot be taken back."):
        say("nothing was changed")
        raise typer.Exit(1)
    withdrawn = withdrawals.add(named, is_whole_site=whole_hospital)
    forget_studies(config)
    if withdrawn.head is None:
        say("all of them had withdrawn before; nothing was changed")
        return
    said = "the hospital withdrew" if whole_hospital else f"{len(withdrawn.added)} patient(s) withdrew"
    before = "" if whole_hospital or len(withdrawn.added) == len(named) else ", the others had before"
    say(f"{said}{before}; entry {withdrawn.head.sequence} of the ledger")
    say(f"for the coordinator, who lets models be trained anew without them: {withdrawn.head.digest}")
    if not whole_hospital:
        say("with the next training some others are left out of trainings beside them, so that none left alone")


def _named(subjects: list[str], file: Path | None) -> list[str]:
    """The patients of the command and of its file, each once, as they are written but for white space around them."""
    lines: list[str] = []
    if file:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError):
            raise ConfigurationError(
                f"{file} cannot be read as text in UTF-8; name a file with one patient a line. Nothing was changed"
            ) from None
    return [name for name in dict.fromkeys(text.strip() for text in (*subjects, *lines)) if name]


def _require_known(named: list[str], config: SiteConfig, ledger: Ledger) -> None:
    """Raise ConfigurationError that itemises whom neither the tables, nor any sum that left, nor the list has."""
    from permmoe_client.participation.own_patients import own_patients
    from permmoe_client.release.patient_account import PatientAccount
    from permmoe_client.release.withdrawals import WithdrawalList

    if not named:
        return
    known = own_patients(config) | set(WithdrawalList(ledger).read().subjects)
    elsewhere = [name for name in named if name not in known]
    groups = PatientAccount(ledger).groups_of(elsewhere)
    if unknown := [name for name in elsewhere if not groups[name]]:
        listed = "\n".join(f"  {name}" for name in unknown)
        raise ConfigurationError(
            f"{len(unknown)} of {len(named)} are unknown here, and nothing was changed:\n{listed}\n"
            "correct them, or leave them out; --even-unknown withdraws also whom the tables do not name"
        )
