"""The curves of a power study (`python simulation/power.py`): its `power.csv`, of which a few columns are read.

The curves rest on planted, synthetic patients: of them it is known what can be found, and counted was in how many
cohorts a study found it. The server imports nothing of the simulation; the file is all that passes between the two.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log
from pathlib import Path

from permmoe.errors import DataError
from permmoe.plain_text import refuse_unprintable

WANTED = 0.8
"""The share of cohorts in which a study should find what is there, as clinical trials are planned."""
COLUMNS = ("patients", "sites", "regime", "method", "reference", "combination", "truth", "cohorts", "share")
PLANTED = ("lower", "higher")
"""What is true where an effect was planted; elsewhere there is nothing to be found, or nobody knows."""
HOW_TO_GET_ONE = "name the power.csv that python simulation/power.py writes"


@dataclass(frozen=True)
class PowerCurve:
    """How often one planted effect was found, against patients."""

    method: str
    reference: str
    combination: str
    """`mean`: in all combinations together."""
    regime: str
    sites: int
    points: Sequence[tuple[int, float, int]]
    """(patients, share of cohorts in which it was found, cohorts), by patients."""

    @property
    def name(self) -> str:
        """What was claimed."""
        where = "" if self.combination == "mean" else f", {self.combination} alone"
        return f"{self.method} errs less than {self.reference}{where}"

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest cohort, patients."""
        return self.points[0][0], self.points[-1][0]

    def share_at(self, patients: int) -> float | None:
        """The share at a number of patients, interpolated over its logarithm; None outside the cohorts."""
        low, high = self.range
        if not low <= patients <= high:
            return None
        after = next(j for j, (n, _, _) in enumerate(self.points) if n >= patients)
        n, share, _ = self.points[after]
        if n == patients:
            return share
        n_before, share_before, _ = self.points[after - 1]
        way = log(patients / n_before) / log(n / n_before)
        return share_before + way * (share - share_before)

    def in_words(self, patients: int) -> str:
        """The share at a number of patients, as a table shows it: `75%`, `below 100 patients`, `beyond 800`."""
        share, (low, high) = self.share_at(patients), self.range
        if share is not None:
            return f"{share:.0%}"
        return f"below {low:,}: not planted" if patients < low else f"{self.points[-1][1]:.0%} at {high:,}"


@dataclass(frozen=True)
class PowerCurves:
    """The curves of one file."""

    curves: tuple[PowerCurve, ...]
    most_cohorts: int
    """Cohorts at a point, at most."""

    def with_sites_near(self, sites: int) -> tuple[PowerCurve, ...]:
        """One curve for each effect: of the number of hospitals nearest to this one, among those with most points."""
        by_effect: dict[tuple[str, str, str, str], list[PowerCurve]] = defaultdict(list)
        for curve in self.curves:
            by_effect[curve.method, curve.reference, curve.combination, curve.regime].append(curve)
        return tuple(
            min(of_effect, key=lambda curve: (len(curve.points) == 1, abs(curve.sites - sites), curve.sites))
            for of_effect in by_effect.values()
        )


def read_power(path: Path) -> PowerCurves:
    """The curves of effects that were planted. Raises DataError for a file that is none of a power study."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        raise DataError(f"{path} cannot be read as a table; {HOW_TO_GET_ONE}") from None
    if not rows or (absent := [name for name in COLUMNS if name not in rows[0]]):
        lacking = f"lacks {', '.join(absent)}" if rows else "has no row"
        raise DataError(f"{path} is no table of a power study: it {lacking}; {HOW_TO_GET_ONE}")
    points: dict[tuple[str, str, str, str, int], list[tuple[int, float, int]]] = defaultdict(list)
    try:
        refuse_unprintable(rows)
        for row in rows:
            share = float(row["share"] or "nan")
            if row["truth"] in PLANTED and isfinite(share):
                key = (row["method"], row["reference"], row["combination"], row["regime"], int(row["sites"]))
                points[key].append((int(row["patients"]), share, int(row["cohorts"])))
    except (ValueError, TypeError):
        raise DataError(f"{path} holds what is no number where one belongs; {HOW_TO_GET_ONE}") from None
    if not points:
        raise DataError(f"{path} has no effect that was planted, so that no curve can be drawn; {HOW_TO_GET_ONE}")
    curves = tuple(PowerCurve(*key, points=sorted(own)) for key, own in points.items())
    return PowerCurves(curves, max(n for curve in curves for _, _, n in curve.points))
