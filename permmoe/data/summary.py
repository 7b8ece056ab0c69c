"""What a visit table holds, as counts: no identifier, path or single value, so it may be shown and logged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from permmoe.data.visits import VisitTable
from permmoe.modality import Combination


@dataclass(frozen=True)
class Distribution:
    """How one number is distributed over visits; NaN where there is no visit."""

    n: int
    mean: float
    deviation: float
    quartiles: tuple[float, float, float]
    zero_share: float
    negative_share: float


@dataclass(frozen=True)
class Summary:
    """Counts of visits, each mapping sorted by its key."""

    visits: int
    by_site: dict[str, int]
    by_phase: dict[str, int]
    by_split: dict[str, int]
    by_modality: dict[str, int]
    modality_by_site: dict[str, dict[str, int]]
    by_combination: dict[Combination, int]
    """Only combinations that occur, most frequent first."""
    baseline: Distribution
    """CDR-SB at the visit, points."""
    delta: Distribution
    """Change in CDR-SB at the horizon, points, of the visits where it is known."""


def summarise(table: VisitTable, names: Sequence[str]) -> Summary:
    """Count visits by site, phase, split, modality and combination, and describe the labels."""
    combinations = Counter(v.observed(names) for v in table)
    of_sites = {site: [v for v in table if v.site == site] for site in table.sites}
    return Summary(
        visits=len(table),
        by_site=_counted(v.site for v in table),
        by_phase=_counted(v.phase for v in table),
        by_split=_counted(v.split for v in table),
        by_modality={name: sum(name in v.observed(names) for v in table) for name in names},
        modality_by_site={
            site: {name: sum(name in v.observed(names) for v in visits) for name in names}
            for site, visits in of_sites.items()
        },
        by_combination=dict(sorted(combinations.items(), key=lambda pair: (-pair[1], pair[0]))),
        baseline=describe(v.baseline_cdrsb for v in table),
        delta=describe(v.delta_cdrsb for v in table if v.delta_cdrsb is not None),
    )


def describe(values: Iterable[float]) -> Distribution:
    """Mean, population SD, quartiles and the shares of zero and negative values."""
    x = np.array(list(values), dtype=np.float64)
    if len(x) == 0:
        nan = float("nan")
        return Distribution(0, nan, nan, (nan, nan, nan), nan, nan)
    low, middle, high = (float(q) for q in np.quantile(x, (0.25, 0.5, 0.75)))
    shares = float((x == 0).mean()), float((x < 0).mean())
    return Distribution(len(x), float(x.mean()), float(x.std()), (low, middle, high), *shares)


def _counted(keys: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(keys).items()))
