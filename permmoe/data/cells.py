"""What a cell of a table says."""

from __future__ import annotations

import math


def parse_number(text: str) -> float | None:
    """The number a cell holds; None where it is empty or says that it is missing; NaN where it is not a number."""
    if text.strip().lower() in ("", "na", "nan", "n/a", "null", "none"):
        return None
    try:
        return float(text)
    except ValueError:
        return math.nan
