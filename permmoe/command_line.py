"""How every command of the project ends: a person's mistake is a message and exit status 2, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from permmoe.errors import PermmoeError


def run(command: Callable[[], None]) -> None:
    """Run a command; turn a PermmoeError and an interruption into a line on standard error and an exit status."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        command()
    except PermmoeError as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on where it stopped")
        sys.exit(130)
