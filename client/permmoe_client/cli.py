"""`permmoe-client`: take part in a federation, and see before and after what that means."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import click
import typer
from rich.text import Text

from permmoe.config import read_config
from permmoe.errors import ConfigurationError
from permmoe.federated.plan import RoundPlan
from permmoe.preparation.progress_bars import progress_bars
from permmoe.runtime.command_line import VersionOption, run
from permmoe.runtime.logs import log_to
from permmoe.runtime.tables import print_whole
from permmoe_client import ledger_commands, withdrawal_commands
from permmoe_client.command_options import SiteOption, console, ledger_of, say, site_file
from permmoe_client.site import SiteConfig, read_site

app = typer.Typer(pretty_exceptions_enable=False, help=__doc__)
app.add_typer(ledger_commands.app, name="ledger")
app.command("withdraw")(withdrawal_commands.withdraw)

LOG_FILE = "permmoe-client.log"
KINDS = {
    "training": ("study {}… train at", "It trains from the next round on."),
    "survey": ("survey {}… count the patients of", "The survey is answered when it is asked next."),
    "evaluation": ("evaluation {}… judge its model at", "The model is judged when it is asked for next."),
}
"""What a hospital is asked whether a study may, and what follows where it may."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> None:
    """The installed command."""
    run(app)


@app.callback(invoke_without_command=True)
def take_part(
    context: click.Context,
    site: SiteOption = None,
    check: Annotated[bool, typer.Option("--check", help="Check everything, change nothing, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: the report for machines.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="With --check: leave out what needs the network.")] = False,
    no_images: Annotated[bool, typer.Option("--no-images", help="With --check: open no image.")] = False,
    details: Annotated[
        bool, typer.Option("--details", help="With --check: name subjects and files; keep that report here.")
    ] = False,
    dry_run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Train one round offline; write here what would have left.")
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="With --dry-run: the study's file, if it was neither refused nor approved yet.")
    ] = None,
    version: VersionOption = False,
) -> None:
    """Take part until the process is asked to end, or run one of the commands below."""
    if context.invoked_subcommand:
        return
    if site is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
    # Flower and PyTorch take seconds to import; a wrong path should not wait for them.
    if check:
        _check(site, as_json=as_json, offline=offline, images=not no_images, details=details)
    # Flower would call home otherwise.
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    config = read_site(site)
    if dry_run:
        from permmoe_client.participation.dry_run import dry_run as rehearse

        with progress_bars(is_shown=console.is_terminal) as show:
            said = rehearse(config, _one_study(config, study), dry_run, show)
        say(said)
        return
    # Each request of a poll is a line of theirs.
    log_to(config.logs and config.logs / LOG_FILE, config.log_format, quiet=("httpx", "httpcore", "flwr"))
    stop = threading.Event()
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: stop.set())
    from permmoe_client.connection.node import Presence, run_node

    presence = Presence()
    with ExitStack() as while_running:
        if config.health_socket:
            from permmoe.runtime.health import serve_health

            health = serve_health(f"unix:{config.health_socket.resolve()}", lambda: presence.is_connected)
            while_running.callback(health.stop, 0)
        run_node(site.resolve(), stop, presence)


def _check(site: Path, *, as_json: bool, offline: bool, images: bool, details: bool) -> None:
    """Show the report of the preflight, and its progress where somebody watches; end with its exit status."""
    from permmoe_client.preflight.run import preflight

    with progress_bars(is_shown=not as_json and console.is_terminal) as show:
        report = preflight(
            site, offline=offline, images=images, progress=partial(show, "images read"), preparation_progress=show
        )
    if as_json:
        typer.echo(report.to_json(with_items=details))
    else:
        print_whole(report.to_table(with_items=details))
    raise typer.Exit(report.exit_code)


@app.command()
def approve(
    context: click.Context,
    site: SiteOption = None,
    study: Annotated[
        Path | None, typer.Option(help="The study's file; without it, the study that was refused last.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts of somebody who has read it.")] = False,
) -> None:
    """Show a study, survey or evaluation in words, and let it train, count or judge here if you say so."""
    from permmoe_client.participation.horizon import horizon_of_settings, require_horizon
    from permmoe_client.release.approval import approved_studies, forget_pending
    from permmoe_client.release.consent import changed_settings, study_in_words

    config = read_site(site_file(context, site))
    ledger = ledger_of(config)
    plan = _one_study(config, study)
    for section in study_in_words(plan, config):
        console.print(Text(f"\n{section.heading}", style="bold"))
        for sentence in section.sentences:
            say(f"  {sentence}")
    approved = approved_studies(ledger.decisions())
    if earlier := [one for one in approved if one.plan.kind == plan.kind]:
        changes = changed_settings(earlier[-1].plan, plan) or ("nothing",)
        console.print(Text(f"\nDifferent from the study approved on {earlier[-1].time[:10]}", style="bold"))
        for change in changes:
            say(f"  {change}")
    config.outcome.require(plan.model.score)
    if plan.survey is None:
        require_horizon(config, horizon_of_settings(config), plan.horizon_months)
    may, then = KINDS[plan.kind]
    if not yes and not typer.confirm(f"\nMay the {may.format(plan.digest()[:16])} site {config.name}?"):
        say("not approved; nothing was changed")
        raise typer.Exit(1)
    facts = {"study": plan.digest(), "study_name": plan.name, "plan": plan.model_dump(mode="json")}
    head = ledger.append("approval", facts)
    assert config.ledger
    forget_pending(config.ledger, plan.digest())
    say(f"approved; entry {head.sequence} of the ledger. {then}")


@app.command()
def revoke(
    context: click.Context,
    digest: Annotated[str, typer.Argument(help="The study's digest, or its first 8 or more characters.")],
    site: SiteOption = None,
) -> None:
    """Take back an approval that was made with `approve`; from the next round on nothing trains for that study."""
    path = site_file(context, site)
    config = read_site(path)
    ledger = ledger_of(config)
    known = {str(entry.facts["study"]) for entry in ledger.decisions()}
    found = [study for study in known if len(digest) >= 8 and study.startswith(digest)]
    if len(found) != 1:
        raise ConfigurationError(
            f"{digest!r} is not the beginning of one approved study's digest; permmoe-client ledger show lists them"
        )
    head = ledger.append("revocation", {"study": found[0]})
    say(f"revoked; entry {head.sequence} of the ledger")
    if found[0] in config.approved_studies:
        say(f"{path} lists the study under approved_studies too: take it out there as well")


def _one_study(config: SiteConfig, file: Path | None) -> RoundPlan:
    """The study of a file, or the one that was refused last."""
    from permmoe_client.release.approval import pending_studies

    if file:
        return read_config(file, RoundPlan)
    pending = pending_studies(config.ledger) if config.ledger else ()
    if not pending:
        raise ConfigurationError("no study was refused here; name the coordinator's file of it with --study")
    return pending[-1]
