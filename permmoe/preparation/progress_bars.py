"""Bars of a preparation, for somebody who watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from permmoe.preparation.progress import Step


@contextmanager
def progress_bars(*, is_shown: bool = True) -> Iterator[Callable[[str, int, int | None], None]]:
    """Show a bar for each step of a preparation, once it begins.

    What is yielded is a `permmoe.preparation.progress.Progress`, and takes the names of other work, too.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not is_shown) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what == Step.LEFT_OUT:
                bars.update(tasks[Step.PREPARED], description=f"{Step.PREPARED}, {done} left out")
                return
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show
