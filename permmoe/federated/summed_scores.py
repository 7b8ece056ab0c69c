"""Scores of calibration visits between sites and coordinator: whether a study asks for them, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from permmoe.calibration.calibration import Calibration, calibration_of
from permmoe.calibration.coarse_counts import coarsened, lowest
from permmoe.calibration.intervals import LEVELS
from permmoe.calibration.score_counts import ScoreCounts, least_visits
from permmoe.federated.plan import RoundPlan
from permmoe.modality import all_combinations, combination_name

Scores = Mapping[str, Int64[np.ndarray, " bin"]]
"""Combination -> visits by bin of the grid of permmoe.calibration.score_counts."""


@dataclass(frozen=True)
class SummedScores:
    """The scores of all sites."""

    counts: Scores
    lowest: Scores
    """The same visits, each in the lowest bin where its score may be: sites merge bins upwards."""
    hospitals: Mapping[str, int]
    """Combination -> how many sites have it; after a secure sum, where nobody learns it, as few as it may be."""
    visits: int
    """Different visits, or fewer: of each site those of its most frequent combination."""
    sites: int


def asks_for_scores(plan: RoundPlan, part: str) -> bool:
    """Whether sites send their scores with an evaluation of this part: of the validation visits, which calibrate, and
    of those that judge a finished model, which its calibration is compared with; never of a study's own test."""
    return plan.federation.calibrate and (part == "validation" or plan.evaluation is not None)


def summed_plainly(by_site: Mapping[str, Scores]) -> SummedScores:
    """The scores of sites whose own are known."""
    counts: dict[str, Int64[np.ndarray, " bin"]] = {}
    low: dict[str, Int64[np.ndarray, " bin"]] = {}
    hospitals: dict[str, int] = {}
    for own in by_site.values():
        for name, row in own.items():
            counts[name] = counts[name] + row if name in counts else row
            low[name] = low[name] + lowest(row) if name in low else lowest(row)
            hospitals[name] = hospitals.get(name, 0) + 1
    visits = sum(max((int(row.sum()) for row in own.values()), default=0) for own in by_site.values())
    return SummedScores(counts, low, hospitals, visits, len(by_site))


def summed_securely(counts: Scores, plan: RoundPlan, sites: int) -> SummedScores:
    """The scores of a secure sum."""
    visits = max((int(row.sum()) for row in counts.values()), default=0)
    return SummedScores(counts, counts, dict.fromkeys(counts, plan.federation.min_holders), visits, sites)


def are_counts_of(row: Int64[np.ndarray, " bin"], n: int, least: int) -> bool:
    """Whether these can be the scores of n visits, no bin of fewer than `least`."""
    return bool((row >= 0).all()) and int(row.sum()) == n and not ((row > 0) & (row < least)).any()


def calibration_from(scores: SummedScores, plan: RoundPlan) -> Calibration | None:
    """What the model's card holds; None where visits are too few for any interval.

    No bin holds fewer than `min_cell_count` visits, also where a secure sum has finer ones: a card goes to more people
    than the coordinator.
    """
    if scores.visits < least_visits(min(LEVELS)):
        return None
    found = ScoreCounts.none(plan.model.names, 1)
    for row, combination in enumerate(all_combinations(plan.model.names)):
        name = combination_name(combination)
        if name in scores.counts:
            found.counts[row, 0] = coarsened(scores.counts[name], plan.federation.min_cell_count)
            found.sites[row, 0] = scores.hospitals[name]
    found.visits[0], found.sites[-1, 0] = scores.visits, scores.sites
    return calibration_of(
        found,
        unit_points=plan.model.unit_points,
        scale="unit" if plan.model.spread == "none" else "spread",
        source=f"validation visits of {scores.sites} hospitals of the study that trained it",
        chose_the_weights=plan.train.keep != "last",
    )
