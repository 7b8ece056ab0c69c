"""How every command of the project ends: a person's mistake is a message and exit status 2, never a traceback.

What passes by itself, or is mended without changing the command, ends with status 75 (`TryAgainLater`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from permmoe.errors import PermmoeError, TryAgainLater
from permmoe.plain_text import plain, plain_lines
from permmoe.runtime.files import FULL_DISK

INTERRUPTED = "interrupted; the same command goes on where it stopped"
INTERRUPTED_STATUS = 130
DISTRIBUTION = "permmoe"


def installed_version() -> str:
    """The version of this software that is installed; "not installed" where it runs from a bare checkout."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "not installed"


def _say_version(is_wanted: bool) -> bool:
    if is_wanted:
        typer.echo(f"{DISTRIBUTION} {installed_version()}")
        raise typer.Exit
    return is_wanted


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and end.")
]
"""The option of every command that shows the version."""


def run(command: Callable[[], None]) -> None:
    """Run a command; turn an error that a person can mend, and an interruption, into a line and an exit status.

    A person can mend a PermmoeError, and a file or folder that cannot be read or written.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        command()
    except PermmoeError as error:
        console.print(f"[bold red]error:[/] {escape(plain_lines(str(error)))}")
        sys.exit(error.exit_status)
    except OSError as error:
        if error.errno in FULL_DISK:
            console.print(f"[bold red]error:[/] {escape(error.strerror or '')}; make room, then repeat the command")
            sys.exit(TryAgainLater.exit_status)
        if error.filename is None:
            raise
        console.print(
            f"[bold red]error:[/] {escape(plain(f'{error.filename}: {error.strerror}'))}; mend it or name another"
        )
        sys.exit(2)
    except KeyboardInterrupt:
        console.print(INTERRUPTED)
        sys.exit(INTERRUPTED_STATUS)
    except SystemExit as end:
        # Typer catches an interruption itself and says nothing.
        if end.code == INTERRUPTED_STATUS:
            console.print(INTERRUPTED)
        raise
