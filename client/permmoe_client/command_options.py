"""What the commands of `permmoe-client` share: the site's file, the site's ledger, and how they speak."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import typer
from rich.console import Console
from rich.text import Text

from permmoe.errors import ConfigurationError
from permmoe.plain_text import plain
from permmoe_client.release.ledger import Ledger
from permmoe_client.site import SiteConfig

SITE_FILE = Path("site.yaml")
"""What a command works with where no file is named."""

SiteOption = Annotated[Path | None, typer.Option("--site", help="The site's YAML file.")]

console = Console(highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Show one line. It may repeat words of others, so nothing of it is a command to the terminal."""
    console.print(Text(plain(text)))


def site_file(context: click.Context, named: Path | None) -> Path:
    """The site's file: named after the command, before it, or `site.yaml`. Raises ConfigurationError for two."""
    value = context.find_root().params.get("site")
    before = Path(value) if value else None
    if named and before and named != before:
        raise ConfigurationError(f"two sites are named, {before} and {named}; name one")
    return named or before or SITE_FILE


def ledger_of(config: SiteConfig) -> Ledger:
    """The site's ledger. Raises ConfigurationError where it keeps none, or its key cannot be used."""
    from permmoe_client.connection.identity import open_ledger

    ledger = open_ledger(config)
    if ledger is None:
        raise ConfigurationError("the site has no 'coordinator', so nothing leaves it and it keeps no ledger")
    return ledger
