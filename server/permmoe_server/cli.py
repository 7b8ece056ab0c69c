"""`permmoe-server`: found a federation and say which hospitals take part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from permmoe.command_line import run
from permmoe.federated.roster import site_fingerprint
from permmoe_server import provisioning
from permmoe_server.federation_folder import FederationFolder

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
console = Console(highlight=False)

FolderArgument = Annotated[Path, typer.Argument(help="The federation's folder.")]
SiteArgument = Annotated[str, typer.Argument(help="What the site is known by, such as north.")]


def main() -> None:
    """The installed command."""
    run(app)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new folder; it will hold private keys.")],
    name: Annotated[str, typer.Option(help="What the federation is called.")],
    host: Annotated[str, typer.Option(help="Name or IP address that sites reach the server by.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port that sites reach the server by.")] = 8443,
) -> None:
    """Found a federation: its authority, its server's certificate, an empty roster, server.yaml."""
    files = FederationFolder(folder)
    fingerprint = provisioning.init(files, name, host, port)
    _say(f"federation in {folder}; settings in {files.settings}")
    _say(f"keep {files.authority_key} secret and backed up: whoever has it can add sites")
    _say(f"fingerprint to read out to hospitals: {fingerprint}")


@app.command("add-site")
def add_site(
    folder: FolderArgument,
    name: SiteArgument,
    public_key: Annotated[
        Path | None,
        typer.Option(
            help="Public half of a key that the hospital made with `ssh-keygen -t ecdsa -b 384` and keeps. The better "
            "way: without it, the kit holds a private key and has to travel in secret."
        ),
    ] = None,
) -> None:
    """Put a hospital on the roster and write the kit to hand to it."""
    kit = provisioning.add_site(FederationFolder(folder), name, public_key)
    _say(f"kit of site {name} in {kit}")
    if public_key is None:
        _say("it holds the site's private key: hand it over in secret, then delete it here")


@app.command("remove-site")
def remove_site(folder: FolderArgument, name: SiteArgument) -> None:
    """Take a hospital off the roster; the others notice nothing."""
    provisioning.remove_site(FederationFolder(folder), name)
    _say(f"site {name} is off the roster and its kit deleted")


@app.command("rotate-certificate")
def rotate_certificate(folder: FolderArgument) -> None:
    """Give the server a new key and certificate; sites notice nothing."""
    end = provisioning.rotate_certificate(FederationFolder(folder))
    _say(f"new server certificate, valid until {end:%Y-%m-%d}; the server has to be started again to use it")


@app.command("list")
def list_sites(folder: FolderArgument) -> None:
    """Show the federation's sites with their keys' fingerprints, and when the server's certificate ends."""
    roster = provisioning.list_sites(FederationFolder(folder))
    table = Table("site", "key (as ssh-keygen -l shows it)", title=f"{roster.federation}, roster {roster.serial}")
    for site in roster.sites:
        table.add_row(site.name, site_fingerprint(site.public_key))
    console.print(table)
    end = provisioning.server_identity(FederationFolder(folder)).certificate.not_valid_after_utc
    _say(f"{len(roster.sites)} site(s); server certificate valid until {end:%Y-%m-%d}")


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
