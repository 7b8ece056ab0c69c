"""`permmoe-client`: take part in a federation, and see before and after what that means."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Annotated

import click
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from permmoe.config import read_config
from permmoe.errors import ConfigurationError
from permmoe.federated.model_chain import parting, rounds_with_two_models
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.command_line import run
from permmoe_client.release.ledger import Ledger
from permmoe_client.site import SiteConfig, read_site

app = typer.Typer(pretty_exceptions_enable=False, help=__doc__)
ledger_app = typer.Typer(no_args_is_help=True, help="The signed record of everything that left.")
app.add_typer(ledger_app, name="ledger")
console = Console(highlight=False, soft_wrap=True)

LOG_BYTES, LOG_FILES = 10_000_000, 5

SiteOption = Annotated[Path, typer.Option("--site", help="The site's YAML file.")]
SITE_FILE = Path("site.yaml")


def main() -> None:
    """The installed command."""
    run(app)


@app.callback(invoke_without_command=True)
def take_part(
    context: click.Context,
    site: Annotated[Path | None, typer.Option(help="The site's YAML file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Check everything, change nothing, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: the report for machines.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="With --check: leave out what needs the network.")] = False,
    details: Annotated[
        bool, typer.Option("--details", help="With --check: name subjects and files; keep that report here.")
    ] = False,
    dry_run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Train one round offline; write here what would have left.")
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="With --dry-run: the study's file, if it was neither refused nor approved yet.")
    ] = None,
) -> None:
    """Take part until the process is asked to end, or run one of the commands below."""
    if context.invoked_subcommand:
        return
    if site is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
    # Flower and PyTorch take seconds to import; a wrong path should not wait for them.
    if check:
        from permmoe_client.preflight.run import preflight

        report = preflight(site, offline=offline)
        if as_json:
            typer.echo(report.to_json(with_items=details))
        else:
            console.print(report.to_table(with_items=details))
        raise typer.Exit(report.exit_code)
    # Flower would call home otherwise.
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    config = read_site(site)
    if dry_run:
        from permmoe_client.participation.dry_run import dry_run as rehearse

        console.print(rehearse(config, _one_study(config, study), dry_run), markup=False)
        return
    _log_to(config)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    from permmoe_client.connection.node import Presence, run_node

    presence = Presence()
    if config.health_socket:
        from permmoe.runtime.health import serve_health

        serve_health(f"unix:{config.health_socket.resolve()}", lambda: presence.is_connected)
    run_node(site.resolve(), stop, presence)


@app.command()
def approve(
    site: SiteOption = SITE_FILE,
    study: Annotated[
        Path | None, typer.Option(help="The study's file; without it, the study that was refused last.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts of somebody who has read it.")] = False,
) -> None:
    """Show a study in words, and let it train here if you say so."""
    from permmoe_client.release.approval import forget_pending
    from permmoe_client.release.consent import changed_settings, study_in_words

    config = read_site(site)
    ledger = _ledger(config)
    plan = _one_study(config, study)
    for section in study_in_words(plan):
        console.print(Text(f"\n{section.heading}", style="bold"))
        for sentence in section.sentences:
            console.print(Text(f"  {sentence}"))
    earlier = [entry for entry in ledger.decisions() if entry.kind == "approval" and "plan" in entry.facts]
    if earlier:
        previous = type(plan).model_validate(earlier[-1].facts["plan"])
        changes = changed_settings(previous, plan) or ("nothing",)
        console.print(Text(f"\nDifferent from the study approved on {earlier[-1].time[:10]}", style="bold"))
        for change in changes:
            console.print(Text(f"  {change}"))
    if not yes and not typer.confirm(f"\nMay the study {plan.digest()[:16]}… train at site {config.name}?"):
        console.print("not approved; nothing was changed")
        raise typer.Exit(1)
    facts = {"study": plan.digest(), "study_name": plan.name, "plan": plan.model_dump(mode="json")}
    head = ledger.append("approval", facts)
    assert config.ledger
    forget_pending(config.ledger, plan.digest())
    console.print(f"approved; entry {head.sequence} of the ledger. It trains from the next round on.")


@app.command()
def revoke(
    digest: Annotated[str, typer.Argument(help="The study's digest, or its first 8 or more characters.")],
    site: SiteOption = SITE_FILE,
) -> None:
    """Take back an approval that was made with `approve`; from the next round on nothing trains for that study."""
    config = read_site(site)
    ledger = _ledger(config)
    known = {str(entry.facts["study"]) for entry in ledger.decisions()}
    found = [study for study in known if len(digest) >= 8 and study.startswith(digest)]
    if len(found) != 1:
        raise ConfigurationError(
            f"{digest!r} is not the beginning of one approved study's digest; permmoe-client ledger show lists them"
        )
    head = ledger.append("revocation", {"study": found[0]})
    console.print(f"revoked; entry {head.sequence} of the ledger")
    if found[0] in config.approved_studies:
        console.print(f"{site} lists the study under approved_studies too: take it out there as well")


@ledger_app.command("verify")
def verify_ledger(site: SiteOption = SITE_FILE) -> None:
    """Check that nothing in the ledger was edited, removed, moved or cut off, and who signed the models it names.

    The account of the patients who were summed, which lies beside it, has to be the one that it states.
    """
    from permmoe_client.connection.identity import load_certificate
    from permmoe_client.release.patient_account import PatientAccount

    config = read_site(site)
    authority = load_certificate(config.coordinator.authority) if config.coordinator else None
    ledger = _ledger(config)
    found = ledger.verify(authority)
    console.print(f"{len(found.entries)} entries, each signed by this site and following the one before")
    console.print(
        f"entries 1 to {found.receipted} have the coordinator's receipt: none of these can have been cut off"
        if found.receipted
        else "no receipt of the coordinator yet: an end that was cut off would not be noticed"
    )
    n_patients = len(PatientAccount(ledger).read().account.groups)
    console.print(f"the account of what was summed is whole: {n_patients} patients under pseudonyms")
    for study, chain in found.chains.items():
        head, again = chain.signed.head, rounds_with_two_models(chain.links)
        signed = "signed by the coordinator" if authority else "its signature not checked, since no authority is known"
        console.print(f"study {study[:8]}: {head.length} models announced, head {head.digest[:16]}, {signed}")
        if again:
            console.print(f"  {again} of them for work that another model was announced for: ask the coordinator why")


@ledger_app.command("compare")
def compare_ledgers(
    other: Annotated[Path, typer.Argument(help="Another hospital's ledger.jsonl.")],
    site: SiteOption = SITE_FILE,
) -> None:
    """Hold the models that this site was told of against those that another hospital was told of."""
    from permmoe_client.connection.identity import load_certificate
    from permmoe_client.release.announced_models import chains_in

    config = read_site(site)
    ledger = _ledger(config)
    assert config.coordinator
    authority = load_certificate(config.coordinator.authority)
    here, there = ledger.verify(authority).chains, chains_in(other, authority)
    parted = False
    for study in sorted({*here} & {*there}):
        one, two = here[study].links, there[study].links
        if (place := parting(one, two)) is None:
            console.print(f"study {study[:8]}: one story, as far as the first {min(len(one), len(two))} models")
            continue
        parted, work = True, one[place]
        console.print(
            f"study {study[:8]}: TWO STORIES, both signed by the coordinator. They part at model {place + 1}: here "
            f"{work.model[:16]} for {work.purpose} in round {work.round}, there {two[place].model[:16]} for "
            f"{two[place].purpose} in round {two[place].round}. Keep both ledgers"
        )
    if not {*here} & {*there}:
        console.print("the two ledgers have no study in common of which models were announced")
    raise typer.Exit(int(parted))


@ledger_app.command("show")
def show_ledger(
    site: SiteOption = SITE_FILE,
    last: Annotated[int, typer.Option(min=1, help="How many of the newest entries.")] = 20,
) -> None:
    """List what left, newest last."""
    table = Table(
        "entry", "time (UTC)", "what", "round", "bytes", "parts", "study", box=None, caption="parts: modules of a "
        "training, combinations of an evaluation, sites of a sum", caption_justify="left",
    )  # fmt: skip
    for entry in list(_ledger(read_site(site)).entries())[-last:]:
        facts = entry.facts
        parts = facts.get("modules") or facts.get("combinations") or facts.get("sites") or {}
        table.add_row(
            str(entry.sequence),
            entry.time[:19],
            entry.kind,
            str(facts.get("round", "")),
            f"{facts['bytes']:,}" if "bytes" in facts else "",
            str(len(parts)) if parts else "",
            Text(f"{facts.get('study', '')[:8]} {facts.get('study_name', '')}"),
        )
    console.print(table)


def _ledger(config: SiteConfig) -> Ledger:
    from permmoe_client.connection.identity import open_ledger

    ledger = open_ledger(config)
    if ledger is None:
        raise ConfigurationError("the site has no 'coordinator', so nothing leaves it and it keeps no ledger")
    return ledger


def _one_study(config: SiteConfig, file: Path | None) -> RoundPlan:
    """The study of a file, or the one that was refused last."""
    from permmoe_client.release.approval import pending_studies

    if file:
        return read_config(file, RoundPlan)
    pending = pending_studies(config.ledger) if config.ledger else ()
    if not pending:
        raise ConfigurationError("no study was refused here; name the coordinator's file of it with --study")
    return pending[-1]


def _log_to(config: SiteConfig) -> None:
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if config.logs:
        config.logs.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(config.logs / "permmoe-client.log", maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=[handler])
    # Each request of a poll is a line of theirs.
    for name in ("httpx", "httpcore", "flwr"):
        logging.getLogger(name).setLevel(logging.WARNING)
