"""How often something was found at each point, and how many patients make that 80% of cohorts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, isfinite, log, nan
from typing import Any, Literal

import pandas as pd

from permmoe.evaluation.intervals import LEVEL
from permmoe_simulation.power.truth import Expected, Truth
from permmoe_simulation.power.verdicts import CLAIM, ClaimKey
from permmoe_simulation.study_tables import PAIR, StudyTable, real, text, whole

WANTED = 0.8
"""The share of cohorts in which a study should find what is there, as clinical trials are planned."""
COUNTED: Mapping[Expected, tuple[str, ...]] = {
    "lower": ("lower",),
    "higher": ("higher",),
    "not lower": ("lower",),
    "no difference": ("lower", "higher"),
    "not known": ("lower",),
}
"""By what is true: the verdicts that are counted as found."""
IS_FALSE: Mapping[Expected, tuple[str, ...]] = {
    "lower": ("higher",),
    "higher": ("lower",),
    "not lower": ("lower",),
    "no difference": ("lower", "higher"),
}
"""By what is true: the verdicts that are false. Where it is not known, none can be called so."""

POWER = StudyTable(
    "power",
    "how often a claim was found at a point: cohorts that were judged, those in which it was found, and their share",
    (
        *whole("patients", "sites"),
        *PAIR,
        *text("combination", "truth"),
        *real("attainable_difference", unit="points"),
        *whole("cohorts", "not_judged", "lower", "higher", "found"),
        *real("share", "share_from", "share_to"),
        *real("false_finds", unit="cohorts"),
        *real("mean_difference", unit="points"),
    ),
)


def power_rows(verdicts: pd.DataFrame, truths: Mapping[ClaimKey, Truth]) -> pd.DataFrame:
    """Rows of POWER from rows of VERDICTS. Shares are of the cohorts that were judged, with Wilson's 95% interval."""
    rows: list[dict[str, Any]] = []
    for key, group in verdicts.groupby(["patients", "sites", *CLAIM], sort=False):
        patients, sites, *claim = key
        regime, method, reference, combination = claim
        truth = truths[regime, method, reference, combination]
        said = group["verdict"].value_counts()
        lower, higher, judged = (int(said.reindex(names).sum()) for names in
                                 (["lower"], ["higher"], ["lower", "higher", "not told"]))  # fmt: skip
        found = sum({"lower": lower, "higher": higher}[name] for name in COUNTED[truth.expected])
        false = IS_FALSE.get(truth.expected)
        share, share_from, share_to = share_with_interval(found, judged)
        rows.append(
            {"patients": patients, "sites": sites, **dict(zip(CLAIM, claim, strict=True)), "truth": truth.expected,
             "attainable_difference": truth.difference, "cohorts": judged, "not_judged": len(group) - judged,
             "lower": lower, "higher": higher, "found": found, "share": share, "share_from": share_from,
             "share_to": share_to, "mean_difference": group["difference"].mean(),
             "false_finds": nan if false is None else float(sum(
                 {"lower": lower, "higher": higher}[name] for name in false))}
        )  # fmt: skip
    return pd.DataFrame(rows)[[column.name for column in POWER.columns]]


def share_with_interval(found: int, cohorts: int) -> tuple[float, float, float]:
    """found / cohorts with the ends of Wilson's 95% interval (1927); NaN for no cohort."""
    if cohorts == 0:
        return nan, nan, nan
    # Takes seconds to import, which workers do not need.
    from statsmodels.stats.proportion import proportion_confint

    lower, upper = proportion_confint(found, cohorts, alpha=LEVEL, method="wilson")
    return found / cohorts, float(lower), float(upper)


@dataclass(frozen=True)
class Needed:
    """Patients from which on a claim is found in WANTED of the cohorts."""

    relation: Literal["about", "at most", "more than", "not known"]
    patients: float = nan

    def in_words(self) -> str:
        """`about 310`, `at most 100`, `more than 1,600`, or a dash."""
        return f"{self.relation} {self.patients:,.0f}" if isfinite(self.patients) else "–"


def patients_needed(patients: Sequence[int], shares: Sequence[float]) -> Needed:
    """Where the line of shares reaches WANTED for good, interpolated over the logarithm of patients.

    A curve of few cohorts may rise, fall and rise again; what it falls behind again is not counted, so that the number
    is rather too large. Points without a share are left out.
    """
    points = sorted((p, s) for p, s in zip(patients, shares, strict=True) if isfinite(s))
    if not points:
        return Needed("not known")
    last, at_last = points[-1]
    if at_last < WANTED:
        return Needed("more than", float(last))
    for (below, low), (above, high) in reversed(list(pairwise(points))):
        if low < WANTED:
            way = (WANTED - low) / (high - low)
            return Needed("about", exp(log(below) + way * (log(above) - log(below))))
    return Needed("at most", float(points[0][0]))
