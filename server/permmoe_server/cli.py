"""`permmoe-server`: found a federation, choose the hospitals that take part, and run its studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import typer
from rich.console import Console
from rich.table import Table

from permmoe.errors import ConfigurationError
from permmoe.federated.roster import site_fingerprint
from permmoe.runtime.command_line import VersionOption, run
from permmoe.runtime.tables import print_whole
from permmoe.runtime.tracking.tracker import TRACK_HELP
from permmoe_server.provisioning import administration, regions
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.running import run_region_until_end, run_until_end
from permmoe_server.settings import read_server
from permmoe_server.studies import registry_commands, study_commands, survey_commands

app = typer.Typer(pretty_exceptions_enable=False, help=__doc__)
app.add_typer(registry_commands.app, name="models")
app.add_typer(study_commands.app, name="study")
app.command("survey")(survey_commands.survey)
console = Console(highlight=False)

FolderArgument = Annotated[Path, typer.Argument(help="The federation's folder.")]
RegionOption = Annotated[str | None, typer.Option(help="The region that the hospital connects to.")]
RegionArgument = Annotated[str, typer.Argument(help="The region's name in the federation, such as west.")]
SiteArgument = Annotated[str, typer.Argument(help="The site's name in the federation, such as north.")]


def main() -> None:
    """Run the command `permmoe-server`."""
    run(app)


@app.callback(invoke_without_command=True)
def run_coordinator(
    context: click.Context,
    config: Annotated[
        Path | None, typer.Option(help="The server.yaml of the federation's folder; runs the coordinator.")
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="YAML file of the study to run; without it the last study goes on.")
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(
            help="Judge this finished model (v0001, or a folder with its card) at hospitals, with the settings of "
            "--study; nothing is trained."
        ),
    ] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Keep the status page when the study has ended.")] = False,
    track: Annotated[str, typer.Option(help=TRACK_HELP)] = "",
    version: VersionOption = False,
) -> None:
    """Run the coordinator, or one of the commands below."""
    if context.invoked_subcommand:
        return
    if config is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
    if not config.is_file():
        raise ConfigurationError(f"no file {config}; name the server.yaml that permmoe-server init wrote")
    run_until_end(FederationFolder(config.resolve().parent), study, evaluate, stay=stay, track=track)


@app.command()
def status(
    config: Annotated[Path, typer.Option(help="The server.yaml of the running coordinator.")] = Path("server.yaml"),
) -> None:
    """Show the state of the running coordinator."""
    from permmoe_server.status.terminal import fetch_status, status_text

    settings = read_server(config)
    console.print(status_text(fetch_status(settings.admin_host, settings.admin_port)))


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new folder; it will hold private keys.")],
    name: Annotated[str, typer.Option(help="The federation's name.")],
    host: Annotated[str, typer.Option(help="Name or IP address by which sites reach the server.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port by which sites reach the server.")] = 8443,
) -> None:
    """Found a federation: its authority, its server's certificate, an empty roster, server.yaml."""
    files = FederationFolder(folder)
    fingerprint = administration.init(files, name, host, port)
    _say(f"federation in {folder}; settings in {files.settings}")
    _say(f"keep {files.authority_key} secret and backed up: a person who has it can add sites")
    _say(f"fingerprint to read out to hospitals: {fingerprint}")


@app.command("add-site")
def add_site(
    folder: FolderArgument,
    name: SiteArgument,
    public_key: Annotated[
        Path | None,
        typer.Option(
            help="Public half of a key that the hospital made with `ssh-keygen -t ecdsa -b 384` and keeps. This is the "
            "better way: without it, the kit holds a private key and has to travel in secret."
        ),
    ] = None,
    region: RegionOption = None,
) -> None:
    """Put a hospital on the roster and write its kit."""
    kit = administration.add_site(FederationFolder(folder), name, public_key, region or "")
    _say(f"kit of site {name} in {kit}")
    if public_key is None:
        _say("it holds the site's private key: hand it over in secret, then delete it here")


@app.command("remove-site")
def remove_site(folder: FolderArgument, name: SiteArgument) -> None:
    """Take a hospital off the roster; the other hospitals notice nothing."""
    administration.remove_site(FederationFolder(folder), name)
    _say(f"site {name} is off the roster and its kit deleted")


@app.command("renew-site")
def renew_site(
    folder: FolderArgument,
    name: SiteArgument,
    public_key: Annotated[
        Path | None, typer.Option(help="Public half of the hospital's new key; without it, the site keeps its key.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="The region that it connects to from now on; '' is the coordinator itself.")
    ] = None,
) -> None:
    """Give a hospital a new certificate, a new key or another region; the others notice nothing."""
    kit = administration.renew_site(FederationFolder(folder), name, public_key, region)
    if region is not None:
        _say(f"site {name} is at home elsewhere; hand it {kit}: its site.yaml has the host and port to connect to")
    if public_key is None:
        _say(f"site {name} has a new certificate; a client that is connected fetches it within the day")
        _say(f"for a client that no longer can: {kit}, of which it needs site.crt")
    else:
        _say(f"site {name} has its new key; hand it {kit}: it needs site.crt and roster.signed.json")


@app.command("rotate-certificate")
def rotate_certificate(
    folder: FolderArgument,
    region: Annotated[str, typer.Option(help="A region, whose server gets them; default: the coordinator's.")] = "",
) -> None:
    """Give the server a new key and certificate; sites notice nothing."""
    files = FederationFolder(folder)
    end = administration.rotate_certificate(files, region)
    _say(f"new server certificate, valid until {end:%Y-%m-%d}; the server has to be started again to use it")
    if region:
        served = files.region(region)
        _say(f"where the region runs on another machine, copy {served.server_key} and {served.server} there first")


@app.command("add-region")
def add_region(
    folder: FolderArgument,
    name: RegionArgument,
    host: Annotated[str, typer.Option(help="Name or IP address by which its sites reach it.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port by which its sites reach it.")] = 8443,
) -> None:
    """Write the folder of a region: a gateway and a superlink more, for hospitals that one machine is too small for."""
    region = regions.add_region(FederationFolder(folder), name, host, port)
    _say(f"region {name} in {region}; copy the folder to the region's machine in secret, it holds its key")
    _say(f"there: permmoe-server region {name}; a coordinator that runs knows the region from now on")


@app.command("remove-region")
def remove_region(folder: FolderArgument, name: RegionArgument) -> None:
    """Delete the folder of a region that no hospital connects to; the others notice nothing."""
    regions.remove_region(FederationFolder(folder), name)
    _say(f"region {name} is no part of the federation any more; what runs on its own machine can be ended and deleted")


@app.command()
def region(folder: Annotated[Path, typer.Argument(help="The region's folder, which add-region wrote.")]) -> None:
    """Run a region's gateway and superlink until the process is asked to end."""
    run_region_until_end(FederationFolder(folder.resolve()))


@app.command("list")
def list_sites(folder: FolderArgument) -> None:
    """Show the federation's sites with their keys' fingerprints, and when the server's certificate ends."""
    roster = administration.list_sites(FederationFolder(folder))
    table = Table("site", "key (as ssh-keygen -l shows it)", title=f"{roster.federation}, roster {roster.serial}")
    has_regions = any(site.region for site in roster.sites)
    if has_regions:
        table.add_column("region")
    for site in roster.sites:
        table.add_row(site.name, site_fingerprint(site.public_key), *([site.region] if has_regions else []))
    print_whole(table)
    end = administration.server_identity(FederationFolder(folder)).certificate.not_valid_after_utc
    _say(f"{len(roster.sites)} site(s); server certificate valid until {end:%Y-%m-%d}")


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
