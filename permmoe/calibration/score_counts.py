"""Scores of calibration visits as counts on a fixed grid: the counts of several hospitals add up to those of all.

A score is |outcome − prediction| over a scale (split conformal prediction: Papadopoulos et al. 2002; Lei et al. 2018,
arXiv 1604.04173). The grid is the same everywhere, so that adding counts loses nothing that counting together keeps.
A quantile is the upper edge of its bin: by up to `RATIO` − 1 too long, never too short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, log

import numpy as np
from jaxtyping import Float, Float64, Int64, Shaped

from permmoe.modality import Combination, all_combinations

FIRST_EDGE, RATIO, N_EDGES = 0.1, 1.01, 560
EDGES: Float64[np.ndarray, " edge"] = FIRST_EDGE * RATIO ** np.arange(N_EDGES)
"""Upper edges of all bins but the last, from 0.1 to 26 units; the first bin begins at 0, the last has no end."""
N_BINS = N_EDGES + 1


@dataclass(frozen=True)
class ScoreCounts:
    """How many visits have a score in which bin, with each combination, of everybody and of each severity group."""

    names: tuple[str, ...]
    """Modalities, in the model's order."""
    counts: Int64[np.ndarray, "combination column bin"]
    """Combinations as `all_combinations(names)` orders them. Column 0 has everybody; the others, if there are any, one
    severity group each, and together the same visits. A visit counts once in every combination that it has."""
    visits: Int64[np.ndarray, " column"]
    """Different visits, each once however many combinations it has."""
    sites: Int64[np.ndarray, "row column"]
    """Hospitals that the visits come from: a row a combination, and a last one for all combinations together."""

    def __post_init__(self) -> None:
        n, (rows, columns, bins) = len(all_combinations(self.names)), self.counts.shape
        if (rows, bins) != (n, N_BINS) or self.sites.shape != (n + 1, columns) or self.visits.shape != (columns,):
            raise ValueError(f"counts of shape {self.counts.shape} are not those of {len(self.names)} modalities")
        if min(self.counts.min(), self.visits.min(), self.sites.min()) < 0:
            raise ValueError("a count of visits is below zero")

    @classmethod
    def none(cls, names: Sequence[str], columns: int) -> ScoreCounts:
        """The counts of no visit."""
        n = len(all_combinations(names))
        counts, visits, sites = (
            np.zeros(shape, dtype=np.int64) for shape in ((n, columns, N_BINS), (columns,), (n + 1, columns))
        )
        return cls(tuple(names), counts, visits, sites)

    def __add__(self, other: ScoreCounts) -> ScoreCounts:
        """The counts of both, which must be of different hospitals. Raises ValueError where they cannot be added."""
        if self.names != other.names or self.counts.shape != other.counts.shape:
            raise ValueError("counts of other modalities or severity groups cannot be added")
        return ScoreCounts(self.names, self.counts + other.counts, self.visits + other.visits, self.sites + other.sites)

    def stretched(self, factor: float) -> ScoreCounts:
        """The same visits as if each score were `factor` times as large, to the nearest bin.

        Visits in the lowest bin and in the one without an end stay there where the grid has no other for them.
        """
        moved = np.zeros_like(self.counts)
        to = np.clip(np.arange(N_BINS) + round(log(factor) / log(RATIO)), 0, N_BINS - 1)
        to[-1] = N_BINS - 1
        for bin_of, new in enumerate(to):
            moved[:, :, new] += self.counts[:, :, bin_of]
        return ScoreCounts(self.names, moved, self.visits, self.sites)

    def row(self, combination: Combination) -> int:
        """Where a combination stands. Raises ValueError for one that there is not."""
        return all_combinations(self.names).index(combination)

    def n(self, combination: Combination, *columns: int) -> int:
        """The visits that were scored with a combination: everybody, or those of severity groups."""
        return int(self.counts[self.row(combination), list(columns or (0,))].sum())

    def quantile(self, combination: Combination, level: float, *columns: int) -> float:
        """The score that a new visit with the combination stays below with chance `level`; infinite for too few.

        Of everybody, or of severity groups taken together.
        """
        counts = self.counts[self.row(combination), list(columns or (0,))].sum(0)
        return _upper_edge(counts, int(counts.sum()), level)

    def pooled_quantile(self, level: float) -> float:
        """The same over all combinations. Scores of one visit are not independent: the correction counts visits."""
        return _upper_edge(self.counts[:, 0].sum(0), int(self.visits[0]), level)


def count_scores(
    names: Sequence[str],
    scores: Float[np.ndarray, "visit combination"],
    severity: Shaped[np.ndarray, " visit"],
    groups: int,
    site: Sequence[str],
) -> ScoreCounts:
    """Count scores; NaN where a visit lacks the combination. `severity` numbers each visit's group from 0.

    Raises ValueError for a score below zero.
    """
    is_known = ~np.isnan(scores)
    if (scores[is_known] < 0).any():
        raise ValueError("a score is the size of an error and cannot be below zero")
    found = ScoreCounts.none(names, 1 + groups if groups > 1 else 1)
    # A score on an edge belongs to the bin below it.
    bins = np.searchsorted(EDGES, np.where(is_known, scores, 0.0), side="left")
    places = np.array(site, dtype=np.str_)
    for column in range(found.visits.shape[0]):
        inside = is_known & (severity == column - 1)[:, None] if column else is_known
        for row in range(scores.shape[1]):
            own = inside[:, row]
            found.counts[row, column] = np.bincount(bins[own, row], minlength=N_BINS)
            found.sites[row, column] = len(np.unique(places[own]))
        scored = inside.any(1)
        found.visits[column] = scored.sum()
        found.sites[-1, column] = len(np.unique(places[scored]))
    return found


def rank(n: int, level: float) -> int:
    """The finite-sample correction: of n scores the ⌈(n+1)·level⌉-th smallest, more than n where they are too few."""
    return ceil(round((n + 1) * level, 9))


def least_visits(level: float) -> int:
    """The fewest visits whose interval does not end at the largest score: 9 at 80%, 39 at 95%.

    From level / (1 − level) visits on (4 and 19) there is an interval with the coverage, but one that reaches to the
    worst of them: a single wrong outcome would set it for everybody, and it would tell that visit's error.
    """
    n = 1
    while rank(n, level) >= n:
        n += 1
    return n


def _upper_edge(counts: Int64[np.ndarray, " bin"], visits: int, level: float) -> float:
    """The upper edge of the bin that holds the corrected quantile of scores, of so many independent visits."""
    needed, total = rank(visits, level), int(counts.sum())
    if needed > visits or not total:
        return inf
    # ⌈rank / visits · total⌉ in whole numbers.
    place = -(-needed * total // visits)
    bin_of = int(np.searchsorted(counts.cumsum(), place, side="left"))
    return float(EDGES[bin_of]) if bin_of < N_EDGES else inf
