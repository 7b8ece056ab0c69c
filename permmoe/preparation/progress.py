"""How far a preparation is: counts of each step, of no subject and no file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from enum import StrEnum
from typing import TypeVar

Item = TypeVar("Item")
MANY = 1000
"""Files are listed quickly: so many are told of at once."""


class Step(StrEnum):
    """What is counted, in the order of the work; the value is what people are shown."""

    LISTED = "files listed"
    IMAGES_OPENED = "images opened"
    DICOM_OPENED = "files searched for DICOM"
    CHOSEN = "scans chosen and converted"
    PREPARED = "scans prepared"
    LEFT_OUT = "scans left out"
    """Of those that were counted as prepared; told of only where there are any."""
    DRAWN = "contact sheets drawn"


Progress = Callable[[Step, int, int | None], None]
"""Told of a step, how much of it is done, and of how much; None while that is not known."""


def unseen(step: Step, done: int, total: int | None) -> None:
    """Nobody looks."""


def counted(items: Iterable[Item], step: Step, progress: Progress, total: int | None = None) -> Iterator[Item]:
    """The same items; `progress` is told of each that is over, or of `MANY` where their number is not known."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    done = 0
    if total:
        progress(step, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        if total is not None or done % MANY == 0:
            progress(step, done, total)
    if total is None and done:
        progress(step, done, done)
