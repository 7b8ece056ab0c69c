"""Tables for people: a terminal wraps them, a pipe or a file gets them as wide as they are."""

from __future__ import annotations

import sys

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table

WIDEST = 10_000
"""Characters of a line that goes into a pipe or a file, at most."""


def print_whole(shown: RenderableType) -> None:
    """Print a table, or a group of tables, so that no cell is cut.

    A terminal folds a word that is longer than its column. Elsewhere a row is one line, which a program can search,
    whatever width the environment names.
    """
    for part in shown.renderables if isinstance(shown, Group) else [shown]:
        for column in part.columns if isinstance(part, Table) else []:
            column.overflow = "fold"
    console = Console(highlight=False)
    if not sys.stdout.isatty():
        width = Measurement.get(console, console.options.update(max_width=WIDEST), shown).maximum
        # With its height given too, nothing else is asked for the size.
        console = Console(highlight=False, width=width, height=console.height)
    console.print(shown)
