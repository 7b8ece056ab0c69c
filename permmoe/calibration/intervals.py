"""From counts of scores to the intervals of one patient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isinf

from permmoe.calibration.score_counts import ScoreCounts, least_visits
from permmoe.modality import Combination

LEVELS = (0.8, 0.95)
"""Nominal coverages."""
LEAST_OF_SEVERITY = 39
"""So many visits of a combination and of a severity group have intervals of their own, as many as one of 95% needs;
neighbouring groups with fewer are taken together. If small groups took everybody's quantile instead, the easy group
would have its short intervals and the hard ones those of all, and together they would hold too seldom."""

BY_SEVERITY, BY_COMBINATION, POOLED = "combination and severity", "combination", "pooled"
"""What an interval is conditional on, in the words that pages show."""
ELSEWHERE = (
    "Intervals speak for the hospitals whose patients calibrated them. At others they hold less often, until permmoe "
    "calibrate has measured patients there."
)
"""Of intervals of 80% two thirds hold at hospitals that never trained (study `unseen-sites`, synthetic patients)."""
AT_HOME = (
    "Predictions and intervals are those of the hospital whose {n} patients calibrated the model. They speak for no "
    "other."
)
RANGES_UNTOLD = (
    "Hospitals of a federation do not say which scores the patients had that calibrated them: nobody is marked as "
    "lying beyond those."
)
"""Of a calibration without ranges, which are of single patients."""


@dataclass(frozen=True)
class PredictionInterval:
    """Where the change lies with a probability that calibration visits vouch for; inside the score's scale."""

    level: float
    """Nominal coverage: of new visits like the calibration's, the share whose change lies inside."""
    low: float
    high: float
    """Points."""
    visits: int
    """Calibration visits behind it."""
    sites: int
    """Hospitals that these visits come from."""
    basis: str
    """`combination`, also `combination and severity`, where the visits have this combination of modalities; `pooled`
    where too few do and all stand in."""


@dataclass(frozen=True)
class Quantile:
    """The score that an interval reaches to, and what it is from."""

    level: float
    score: float
    visits: int
    sites: int
    basis: str


def quantiles(scores: ScoreCounts, combination: Combination, severity: int) -> Iterator[Quantile]:
    """For each level the quantile of the narrowest set of visits that is large enough; none where all are too few.

    `severity`: the patient's group, from 0; without severity groups it plays no role.
    """
    row = scores.row(combination)
    alike = severity_columns(scores, combination, severity)
    for level in LEVELS:
        least = least_visits(level)
        if alike and (n := scores.n(combination, *alike)) >= least:
            # Of hospitals with patients of several groups, no more than the largest number is known.
            sites = int(scores.sites[row, alike].max())
            own = Quantile(level, scores.quantile(combination, level, *alike), n, sites, BY_SEVERITY)
        elif (n := scores.n(combination)) >= least:
            own = Quantile(level, scores.quantile(combination, level), n, int(scores.sites[row, 0]), BY_COMBINATION)
        elif (n := int(scores.visits[0])) >= least:
            own = Quantile(level, scores.pooled_quantile(level), n, int(scores.sites[-1, 0]), POOLED)
        else:
            continue
        yield own


def severity_columns(scores: ScoreCounts, combination: Combination, severity: int) -> list[int]:
    """The columns of the severity groups that stand for a patient of one; none where all groups have to stand together.

    From the mildest on, groups are taken together until there are enough visits; what is left over joins the last.
    """
    parts: list[list[int]] = [[]]
    for column in range(1, scores.counts.shape[1]):
        parts[-1].append(column)
        if scores.n(combination, *parts[-1]) >= LEAST_OF_SEVERITY:
            parts.append([])
    left = parts.pop()
    if len(parts) < 2:
        return []
    parts[-1] += left
    return next(part for part in parts if 1 + severity in part)


def interval(change: float, scale: float, quantile: Quantile, bounds: tuple[float, float]) -> PredictionInterval:
    """The interval about a predicted change. `scale`: what its scores were divided by, points; `bounds`: the changes
    that stay on the score's scale, which the true one does too."""
    reach = scale * quantile.score
    low, high = bounds
    ends = (low, high) if isinf(reach) else (max(change - reach, low), min(change + reach, high))
    return PredictionInterval(quantile.level, *ends, quantile.visits, quantile.sites, quantile.basis)
