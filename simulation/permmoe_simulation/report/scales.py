"""The range of values that a figure's axis shows."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np


def axis_limits(values: Sequence[float], *, is_difference: bool = False) -> tuple[float, float]:
    """The ends of an axis for these values; symmetric about zero for differences, so that the sides compare by eye."""
    if not is_difference:
        return robust_range(values)
    low, high = robust_range([*values, 0.0])
    reach = max(abs(low), abs(high))
    return -reach, reach


def robust_range(values: Sequence[float]) -> tuple[float, float]:
    """The values' range with a margin; far outliers (beyond five times the middle 80% from the median) left out."""
    finite = np.asarray([v for v in values if isfinite(v)], dtype=np.float64)
    if finite.size == 0:
        return 0.0, 1.0
    low_bulk, middle, high_bulk = np.quantile(finite, (0.1, 0.5, 0.9))
    reach = 5 * (high_bulk - low_bulk)
    kept = finite[np.abs(finite - middle) <= reach] if reach > 0 else finite
    low, high = float(kept.min()), float(kept.max())
    margin = 0.04 * (high - low) or max(0.1, 0.1 * abs(high))
    return low - margin, high + margin
