"""What a cell of a table says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

from permmoe.errors import DataError

NumberReader = Callable[[str], float | None]

_COMMA = re.compile(r"[+-]?\d+,\d+")


def is_missing(text: str) -> bool:
    """Whether a cell is empty or says that nothing is there."""
    return text.strip().lower() in ("", "na", "nan", "n/a", "null", "none")


def parse_number(text: str) -> float | None:
    """The number a cell holds; None where it is empty or says that it is missing; NaN where it is not a number."""
    if is_missing(text):
        return None
    try:
        return float(text)
    except ValueError:
        return math.nan


def number_reader(values: Iterable[str], column: str) -> NumberReader:
    """What reads a column's numbers, as `parse_number` does, with a decimal comma where the column has one.

    Raises DataError for a column that has decimal points and decimal commas.
    """
    cells = [value.strip() for value in values]
    comma = next((cell for cell in cells if _COMMA.fullmatch(cell)), None)
    if comma is None:
        return parse_number
    point = next((cell for cell in cells if "." in cell and not math.isnan(parse_number(cell) or 0.0)), None)
    if point is not None:
        raise DataError(f"column {column} has decimal points ({point!r}) and commas ({comma!r}); write points alone")
    return lambda text: parse_number(text.strip().replace(",", "."))
