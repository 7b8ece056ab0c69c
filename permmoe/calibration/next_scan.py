"""Which scan next? What another modality was worth to the calibration visits that have it, judged with and without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from pydantic import Field

from permmoe.calibration.intervals import LEVELS, quantiles
from permmoe.calibration.score_counts import ScoreCounts
from permmoe.config import Configuration
from permmoe.modality import Combination, all_combinations, combination_name

LEAST_WITH_BOTH = 39
"""Fewer visits with the scan do not tell what it is worth; as many as an interval of 95% needs."""


class Added(Configuration):
    """Sums over the visits that have a combination and one modality more. Those of several hospitals add up."""

    visits: int = Field(ge=1)
    error_without: float = Field(ge=0, description="Σ |outcome − prediction| from the combination, points")
    error_with: float = Field(ge=0, description="the same from the combination and the modality")
    scale_without: float = Field(gt=0, description="Σ of what errors are divided by, points")
    scale_with: float = Field(gt=0)


AddedScans = Mapping[str, Mapping[str, Added]]
"""By combination, and by the modality that is added to it."""


@dataclass(frozen=True)
class NextScan:
    """What a scan that a patient lacks would bring, as far as calibration visits tell."""

    modality: str
    narrowing: float
    """By how much the interval of 80% would be shorter on average, before it is cut at the scale's ends; points."""
    error_change: float
    """By how much the mean error changed when the scan was added; below zero it was smaller; points."""
    visits: int
    """Calibration visits that have both, and were judged with the scan and without it."""


def added_scans(
    names: Sequence[str],
    errors: Float[np.ndarray, "visit combination"],
    scales: Float[np.ndarray, "visit combination"],
) -> dict[str, dict[str, Added]]:
    """The sums of every combination and modality that some visit has together. `errors`: points, NaN where lacking."""
    combinations = all_combinations(names)
    found: dict[str, dict[str, Added]] = {}
    for j, combination in enumerate(combinations):
        for name in names:
            if name in combination:
                continue
            k = combinations.index(tuple(m for m in names if m in combination or m == name))
            has_both = ~np.isnan(errors[:, k]) & ~np.isnan(errors[:, j])
            if has_both.any():
                found.setdefault(combination_name(combination), {})[name] = Added(
                    visits=int(has_both.sum()),
                    error_without=float(errors[has_both, j].sum()), error_with=float(errors[has_both, k].sum()),
                    scale_without=float(scales[has_both, j].sum()), scale_with=float(scales[has_both, k].sum()),
                )  # fmt: skip
    return found


def next_scans(
    added: AddedScans, counts: ScoreCounts, combination: Combination, severity: int, scale: float
) -> tuple[NextScan, ...]:
    """What each scan that a patient lacks would bring, the most narrowing first; none of which too few tell.

    `scale`: what the patient's own errors are divided by, points. With the scan it is expected to change as it did on
    average.
    """
    now = {q.level: q.score for q in quantiles(counts, combination, severity)}
    found = []
    for name, sums in added.get(combination_name(combination), {}).items():
        more = tuple(m for m in counts.names if m in combination or m == name)
        then = {q.level: q.score for q in quantiles(counts, more, severity)}
        if sums.visits < LEAST_WITH_BOTH or LEVELS[0] not in now or LEVELS[0] not in then:
            continue
        scale_then = scale * sums.scale_with / sums.scale_without
        narrowing = 2 * (scale * now[LEVELS[0]] - scale_then * then[LEVELS[0]])
        if np.isfinite(narrowing):
            change = (sums.error_with - sums.error_without) / sums.visits
            found.append(NextScan(name, float(narrowing), change, sums.visits))
    return tuple(sorted(found, key=lambda scan: -scan.narrowing))
