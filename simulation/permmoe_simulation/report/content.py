"""What a page is made of, before it is HTML; and how numbers are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import floor, isfinite, log10
from typing import ClassVar

from permmoe.runtime.text import duration_text, size_text

NO_SUBJECT = "no subject"
"""What stands where a number would, had there been anyone to count."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Plot:
    """A figure: inline SVG, a text for readers who cannot see it, and how to read it."""

    kind: ClassVar[str] = "plot"
    svg: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Entry:
    """A table cell: a text, a smaller line below it, and how much of the heat colour lies behind it (0 to 1)."""

    text: str
    detail: str = ""
    is_strong: bool = False
    is_quiet: bool = False
    heat: float = 0.0


@dataclass(frozen=True)
class Table:
    """The first column of every row is its header; the others are right-aligned unless they are prose."""

    kind: ClassVar[str] = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    is_prose: bool = False
    has_total: bool = False
    """Whether the last row sums up the others."""
    is_from_study: bool = True
    """Whether its numbers come from the study's data, so that it is labelled synthetic where those are."""


@dataclass(frozen=True)
class Listing:
    """Text to copy: a command or a file."""

    kind: ClassVar[str] = "listing"
    text: str


@dataclass(frozen=True)
class Fold:
    """Items shown on request; open on paper where the browser can."""

    kind: ClassVar[str] = "fold"
    title: str
    items: Sequence[Item]


Item = Text | Plot | Table | Listing | Fold


@dataclass(frozen=True)
class Section:
    """One heading of the page."""

    anchor: str
    title: str
    items: Sequence[Item] = field(default_factory=tuple)


def number(value: float | int | None, digits: int = 2) -> str:
    """A figure with a real minus sign; an en dash where there is none."""
    if value is None or not isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def digits_for(value: float | None) -> int:
    """Decimals with which a difference still says something: two significant digits, at most four decimals."""
    if value is None or not isfinite(value) or value == 0:
        return 2
    return min(4, max(1, 1 - floor(log10(abs(value)))))


def table_digits(values: Iterable[float]) -> int:
    """Decimals for a table of differences: three where the largest is about a point."""
    largest = max((abs(value) for value in values if isfinite(value)), default=0.0)
    return 4 if largest < 0.03 else 3 if largest < 3 else 2 if largest < 30 else 1


def signed(value: float | None, digits: int = 2) -> str:
    """The same with a plus sign where it is above zero."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and float(text.replace(",", "")) != 0 else text


def interval(lower: float | None, upper: float | None, digits: int = 2) -> str:
    """`1.41 to 1.85`, or nothing where either end is missing."""
    if lower is None or upper is None or not (isfinite(lower) and isfinite(upper)):
        return ""
    return f"{number(lower, digits)} to {number(upper, digits)}"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def amount(n_bytes: float) -> str:
    """A number of bytes; an en dash where there is none."""
    return size_text(n_bytes) if isfinite(n_bytes) else number(None)


def duration(seconds: float) -> str:
    """A duration; an en dash where there is none."""
    return duration_text(seconds) if isfinite(seconds) else number(None)


def whole_or_two(value: float) -> int:
    """The decimals of a place on an axis: none for a whole number, else two."""
    return 0 if value == int(value) else 2


def count(n: int, one: str, many: str | None = None) -> str:
    """`1 site`, `3 sites`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
