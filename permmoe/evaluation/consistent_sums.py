"""Which sums of errors can be sums of errors: what follows from an outcome's range, and of one combination for another.

Every rule here holds for one visit, and so for any sum over visits, of one site or of all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from permmoe.evaluation.combinations import ErrorSums

TOLERANCE = 1e-6
"""Relative to the largest figure of a rule: predictions are float32, and sums of a secure study are in fixed point."""


def is_consistent(sums: ErrorSums, outcome_range: tuple[float, float] | None) -> bool:
    """Whether n predictions and outcomes within the range can have these sums; without a range, any n of both."""
    n, low, high = sums.n, *(outcome_range or (-math.inf, math.inf))
    values = (sums.squared, sums.absolute, sums.target, sums.target_squared)
    if not all(map(math.isfinite, values)) or min(sums.squared, sums.absolute, sums.target_squared) < 0:
        return False
    # "The mean of squares is no less than the square of the mean."
    rules = [
        (sums.absolute * sums.absolute, n * sums.squared),
        (sums.target * sums.target, n * sums.target_squared),
    ]
    if outcome_range:
        width = high - low
        # Σ (y − low)(high − y) is not negative; to it belong terms that nearly cancel.
        product = (low + high) * sums.target - n * low * high
        slack = TOLERANCE * n * max(abs(low), abs(high)) ** 2
        rules += [
            # "No prediction is further from its outcome than the range is wide."
            (sums.absolute, n * width),
            (sums.squared, width * sums.absolute),
            # "Every outcome is within the range."
            (sums.target, n * high),
            (n * low, sums.target),
            (sums.target_squared - slack, product),
        ]
    return all(less <= more + TOLERANCE * max(1.0, abs(less), abs(more)) for less, more in rules)


def are_nested(by_name: Mapping[str, ErrorSums], *, is_complete: bool) -> bool:
    """Whether every combination has the visits of those that it is a part of, and perhaps more.

    `is_complete`: a combination that is part of one that occurs has to occur too, as at a site; of a secure sum a
    combination may be withheld. Combinations are named as `combination_name` writes them.
    """
    sums = {frozenset(name.split("+")): one for name, one in by_name.items()}
    for whole, one in sums.items():
        for part, other in sums.items():
            slack = TOLERANCE * max(1.0, other.target_squared)
            if part < whole and not (other.n >= one.n and other.target_squared + slack >= one.target_squared):
                return False
        if is_complete and any(whole - {name} not in sums for name in whole if len(whole) > 1):
            return False
    return True
