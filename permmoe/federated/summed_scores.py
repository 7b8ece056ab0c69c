"""Scores of calibration visits between sites and coordinator: whether a study asks for them, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from permmoe.calibration.calibration import Calibration, calibration_of, severity_ends
from permmoe.calibration.coarse_counts import coarsened, lowest, widened
from permmoe.calibration.intervals import LEVELS
from permmoe.calibration.score_counts import ScoreCounts, least_visits
from permmoe.federated.plan import RoundPlan
from permmoe.modality import all_combinations, combination_name

COUNTED_WITH_NOISE = ", counted with noise that protects each patient; intervals are longer by what it may hide"
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
    severity: Scores = field(default_factory=dict)
    """By combination and severity group (`of_group`), of the visits whose severity is told: the others are in `counts`
    alone. Both are on one grid, so that they can be subtracted."""
    group_hospitals: Mapping[str, int] = field(default_factory=dict)
    """How many sites have visits of a combination and severity group, as `hospitals` says it."""


def of_group(combination: str, group: int) -> str:
    """What counts of a combination and a severity group are called, such as `t1+flair/2`."""
    return f"{combination}/{group}"


def severity_groups(plan: RoundPlan, part: str) -> int:
    """How many severity groups errors on this part are counted by; 0 where the study does not ask, or its score has
    none. A finished model is judged by combination alone."""
    is_asked = plan.federation.calibrate_severity and asks_for_scores(plan, part) and plan.evaluation is None
    ends = severity_ends(plan.model) if is_asked else ()
    return len(ends) + 1 if ends else 0


def asks_for_scores(plan: RoundPlan, part: str) -> bool:
    """Whether sites send their scores with an evaluation of this part: of the validation visits, which calibrate, and
    of those that judge a finished model, which its calibration is compared with; never of a study's own test."""
    return plan.federation.calibrate and (part == "validation" or plan.evaluation is not None)


def summed_plainly(by_site: Mapping[str, Scores], severity: Mapping[str, Scores] | None = None) -> SummedScores:
    """The scores of sites whose own are known, and their scores by severity."""
    counts: dict[str, Int64[np.ndarray, " bin"]] = {}
    low: dict[str, Int64[np.ndarray, " bin"]] = {}
    hospitals: dict[str, int] = {}
    for own in by_site.values():
        for name, row in own.items():
            counts[name] = counts[name] + row if name in counts else row
            low[name] = low[name] + lowest(row) if name in low else lowest(row)
            hospitals[name] = hospitals.get(name, 0) + 1
    visits = sum(max((int(row.sum()) for row in own.values()), default=0) for own in by_site.values())
    groups: dict[str, Int64[np.ndarray, " bin"]] = {}
    group_hospitals: dict[str, int] = {}
    for own in (severity or {}).values():
        for name, row in own.items():
            groups[name] = groups[name] + row if name in groups else row
            group_hospitals[name] = group_hospitals.get(name, 0) + 1
    return SummedScores(counts, low, hospitals, visits, len(by_site), groups, group_hospitals)


def summed_securely(counts: Scores, plan: RoundPlan, sites: int, severity: Scores | None = None) -> SummedScores:
    """The scores of a secure sum, and those by severity: all visits of a group may be of one site."""
    if severity:
        counts = {name: widened(row) for name, row in counts.items()}
    visits = max((int(row.sum()) for row in counts.values()), default=0)
    holders = dict.fromkeys(counts, plan.federation.min_holders)
    groups = severity or {}
    return SummedScores(counts, counts, holders, visits, sites, groups, dict.fromkeys(groups, 1))


def untold(row: Int64[np.ndarray, " bin"], combination: str, severity: Scores) -> Int64[np.ndarray, " bin"]:
    """The visits of everybody's counts whose severity is not told."""
    own = [counts for name, counts in severity.items() if name.rpartition("/")[0] == combination]
    return np.asarray(row - sum(own, np.zeros_like(row)))


def are_counts_of(row: Int64[np.ndarray, " bin"], n: int, least: int) -> bool:
    """Whether these can be the scores of n visits, no bin of fewer than `least`."""
    return bool((row >= 0).all()) and int(row.sum()) == n and not ((row > 0) & (row < least)).any()


def are_of_groups(severity: Scores, scores: Scores, groups: int, least: int) -> bool:
    """Whether these can be the scores of severity groups of those visits: no bin of a group, and none of the visits of
    no group, has fewer than `least`."""
    known = {of_group(name, group) for name in scores for group in range(groups)}
    if not severity.keys() <= known:
        return False
    return all(
        are_counts_of(row, int(row.sum()), least)
        for row in (*severity.values(), *(untold(row, name, severity) for name, row in scores.items()))
    )


def calibration_from(scores: SummedScores, plan: RoundPlan) -> Calibration | None:
    """What the model's card holds; None where visits are too few for any interval.

    No bin holds fewer than `min_cell_count` visits, also where a secure sum has finer ones: a card goes to more people
    than the coordinator.
    """
    if scores.visits < least_visits(min(LEVELS)):
        return None
    ends = severity_ends(plan.model) if scores.severity else ()
    # Noise covers each single visit.
    is_noised = plan.federation.has_private_evaluations
    least = 1 if is_noised else plan.federation.min_cell_count
    found = ScoreCounts.none(plan.model.names, 2 + len(ends) if ends else 1)
    columns = range(1, found.counts.shape[1])
    for row, combination in enumerate(all_combinations(plan.model.names)):
        name = combination_name(combination)
        if name in scores.counts:
            found.counts[row] = _of_card(scores, name, len(columns), least)
            told = [scores.group_hospitals.get(of_group(name, column - 1), 0) for column in columns]
            found.sites[row] = scores.hospitals[name], *told
    found.visits[0], found.sites[-1, 0] = scores.visits, scores.sites
    for column in columns:
        # Or fewer, as with everybody: those of the combination that most of the group have.
        found.visits[column] = found.counts[:, column].sum(1).max()
        found.sites[-1, column] = found.sites[:-1, column].max()
    return calibration_of(
        found,
        unit_points=plan.model.unit_points,
        scale="unit" if plan.model.spread == "none" else "spread",
        severity_ends=ends,
        source=f"validation visits of {scores.sites} hospitals of the study that trained it"
        + (COUNTED_WITH_NOISE if is_noised else ""),
        chose_the_weights=plan.train.keep != "last",
    )


def _of_card(scores: SummedScores, name: str, groups: int, least: int) -> Int64[np.ndarray, "column bin"]:
    """A combination's counts: everybody's, and each severity group's.

    Bins of the groups, and of those whose severity is not told, are merged apart and then added: whoever subtracts one
    from another finds no bin of few either. Where nobody of a group is told there are everybody's alone: a patient of
    that group would get the interval of others under the name of his own.
    """
    everybody = scores.counts[name]
    nobody = np.zeros_like(everybody)
    own = [scores.severity.get(of_group(name, group), nobody) for group in range(groups)]
    parts = [untold(everybody, name, scores.severity), *own]
    if any(0 < part.sum() < least for part in parts) or not all(part.any() for part in own):
        parts = [everybody, *[nobody] * groups]
    parts = [coarsened(part, least) for part in parts]
    return np.stack([sum(parts, nobody), *parts[1:]])
