"""How far a study is, in a terminal: a bar for each stage, with the step that was last done behind it."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

MOST_BAR, ROOM = 40, 120
"""Characters of a bar where the terminal has room for it; in a narrower one numbers come first."""


def study_bars(console: Console) -> Progress:
    """Bars whose tasks have a field `last`. A narrow terminal cuts that, and no number."""
    whole = Column(no_wrap=True)
    return Progress(
        TextColumn("{task.description}", table_column=whole),
        BarColumn(bar_width=max(MOST_BAR - max(ROOM - console.width, 0), 4), table_column=whole.copy()),
        *(column(table_column=whole.copy()) for column in (MofNCompleteColumn, TimeElapsedColumn, TimeRemainingColumn)),
        _LastStep(table_column=Column(no_wrap=False)),
        console=console,
    )


class _LastStep(ProgressColumn):
    """What was last done, cut at the terminal's end."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields["last"]), no_wrap=True, overflow="ellipsis")
