"""The table and the section of coverage: how often prediction intervals hold the truth, and how wide they are.

Each cell's model is calibrated on its validation visits, as `permmoe train` does it, and judged on its test visits:
with each combination, and at each site. Where some sites train nothing, they are also judged together, and so are the
others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from permmoe.calibration.intervals import LEVELS
from permmoe_simulation.report.content import Entry, Fold, Item, Section, Table, Text, listed, number
from permmoe_simulation.report.judged_intervals import BY_SPREAD, BY_UNIT, EVERYWHERE, TRAINED, UNSEEN, judged_intervals
from permmoe_simulation.report.lookups import MEAN
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View, by_regime
from permmoe_simulation.studies.cell_files import CALIBRATION, FinishedCell
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.study_tables import OUTCOME_UNIT, Column, StudyTable, real, text, whole

COVERAGE = StudyTable(
    "coverage",
    "intervals of a method and regime at a level, for a combination (or `mean`) and a site (or sites), over all seeds",
    (
        *text("method", "regime", "combination", "site"),
        *real("level"),
        *whole("seeds", "n", unit="intervals judged"),
        *real("calibrated", unit="visits a seed"),
        *real("coverage", "lowest", "highest", unit="share of the intervals; the ends are over seeds"),
        *real("width", unit=OUTCOME_UNIT),
        *real("pooled", unit="share of the intervals"),
        Column("scale", "text", may_be_absent=True),
    ),
)


def coverage_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of COVERAGE."""
    return coverage_of(done.cells)


def coverage_of(cells: Sequence[FinishedCell]) -> pd.DataFrame:
    """Rows of COVERAGE; none of cells that kept no predictions for their validation visits.

    They say what errors were divided by where it was not the unit in all cells.
    """
    judged = [row for cell in cells if (cell.folder / CALIBRATION).exists() for row in judged_intervals(cell)]
    if not judged:
        return pd.DataFrame()
    tells_scale, rows = any(row["scale"] != BY_UNIT for row in judged), []
    for key, own in pd.DataFrame(judged).groupby(["method", "regime", "combination", "site", "level"], sort=False):
        known = own[own["n"] > 0]
        by_seed = known["inside"] / known["n"]
        total = max(int(known["n"].sum()), 1)
        rows.append(
            {**dict(zip(("method", "regime", "combination", "site", "level"), key, strict=True)),
             "seeds": len(known), "n": int(known["n"].sum()), "calibrated": own["calibrated"].mean(),
             "coverage": known["inside"].sum() / total if len(known) else np.nan,
             "lowest": by_seed.min(), "highest": by_seed.max(),
             "width": known["width_sum"].sum() / total if len(known) else np.nan,
             "pooled": known["pooled"].sum() / total if len(known) else np.nan,
             **({"scale": " and ".join(sorted(set(own["scale"])))} if tells_scale else {})}
        )  # fmt: skip
    return pd.DataFrame(rows)


def coverage_section(view: View) -> Section:
    """How often intervals hold; that nothing is known of it where the cells are from before it was measured."""
    title, rows = "How often prediction intervals hold", view.study.table(COVERAGE)
    if rows is None:
        return Section("coverage", title, [Text(
            "Not measured: no cell of this study kept its predictions for validation visits, or these were too few."
        )])  # fmt: skip

    def build(regime: str) -> list[Item]:
        own = rows[rows["regime"] == regime]
        methods = [m for m in view.methods if m in set(own["method"])]
        if not methods:
            return [Text("No method of this regime kept its predictions for validation visits.")]
        where = f", {regime}" if len(view.regimes) > 1 else ""
        averages = [(MEAN, many) for many in _kinds(own)]
        return [
            _table(view, own, methods, "Method", averages, f"All combinations and sites{where}."),
            *(
                Fold(f"{view.label(m)}: by combination and by site{where}", _details(view, own, m))
                for m in methods
            ),
        ]  # fmt: skip

    intro = Text(
        f"An interval of {LEVELS[0]:.0%} is to hold the true change of {LEVELS[0]:.0%} of patients with the same "
        "modalities. Each training is calibrated on its validation visits (split conformal prediction, conditional on "
        "the combination and, where there are enough visits, on severity) and judged on its test visits. Coverage "
        "below nominal means that intervals promise too much; what holds over all sites need not hold at each."
        f"{_by_spread(view, rows)}{_UNSEEN if UNSEEN in set(rows['site']) else ''}"
    )
    return Section("coverage", title, [intro, *by_regime(view, build)])


class CoverageOverSites(NamedTuple):
    """One row of COVERAGE over all combinations and several sites."""

    method: str
    regime: str
    site: str
    """Which sites: EVERYWHERE, TRAINED or UNSEEN."""
    level: float
    n: int
    coverage: float
    lowest: float
    highest: float
    width: float


def coverage_over_sites(view: View) -> list[CoverageOverSites]:
    """What held over all combinations, at all sites and at each kind of them; nothing where no interval was judged."""
    rows = view.study.table(COVERAGE)
    if rows is None:
        return []
    averages = rows[(rows["combination"] == MEAN) & rows["site"].isin([EVERYWHERE, TRAINED, UNSEEN]) & (rows["n"] > 0)]
    found = [CoverageOverSites(*row) for row in averages[list(CoverageOverSites._fields)].itertuples(index=False)]
    methods = {m: place for place, m in enumerate(view.methods)}
    return sorted(found, key=lambda row: methods[row.method])


_UNSEEN = (
    " Sites that never trained gave neither training nor validation visits, so that nothing about their patients and "
    "scanners is in the intervals. Which sites these are is drawn anew for every seed."
)


def _by_spread(view: View, rows: pd.DataFrame) -> str:
    """Whose intervals are scaled by a spread; empty where nobody's are."""
    scales = rows.groupby("method")["scale"].agg(set).to_dict() if "scale" in rows else {}
    named = [
        f"{view.label(m)}{'' if scales[m] == {BY_SPREAD} else ' (not in all seeds)'}"
        for m in view.methods
        if m in scales and scales[m] != {BY_UNIT}
    ]
    if not named:
        return ""
    return (
        f" Intervals of {listed(named)} reach farther where the method expects a larger error: errors are divided by "
        "the spread that it predicts for the visit, which in an ensemble is that of the members' mixture."
    )


def _details(view: View, rows: pd.DataFrame, method: str) -> list[Item]:
    own = rows[rows["method"] == method]
    kinds = _kinds(own)
    sites = sorted(set(own["site"]) - set(kinds))
    combinations = [c for c in view.combinations if c in set(own["combination"])]
    few = own[(own["pooled"] > 0) & (own["combination"] != MEAN)]
    notes = [
        Text(f"At {level:.0%} too few validation visits of {listed(sorted(set(some['combination'])))}: pooled there.")
        for level, some in few.groupby("level")
    ]
    return [
        *(
            _table(
                view, own, [method], "Combination", [(c, many) for c in combinations],
                f"By combination{_at(many)}.",
            )
            for many in kinds
        ),
        *notes,
        _table(view, own, [method], "Site", [(MEAN, s) for s in sites], "By site, all combinations."),
    ]  # fmt: skip


def _kinds(rows: pd.DataFrame) -> list[str]:
    """The sets of several sites that the rows are of."""
    return [many for many in (EVERYWHERE, TRAINED, UNSEEN) if many in set(rows["site"])]


def _at(many: str) -> str:
    return "" if many == EVERYWHERE else f", {many}"


def _table(
    view: View, rows: pd.DataFrame, methods: Sequence[str], first: str, keys: Sequence[tuple[str, str]], what: str
) -> Table:
    found = {(r.method, r.combination, r.site, r.level): r for r in rows.itertuples()}
    lines = []
    for method in methods:
        for combination, site in keys:
            at = [found.get((method, combination, site, level)) for level in LEVELS]
            label = f"{view.label(method)}{_at(site)}"
            name = label if first == "Method" else combination if first == "Combination" else site
            entries = [Entry(name), Entry("–" if at[0] is None else f"{at[0].n:,}")]
            for row in at:
                if row is None or not row.n:
                    entries += [Entry("–", "too few"), Entry("–")]
                    continue
                over = f"{100 * row.lowest:.0f} to {100 * row.highest:.0f}% over seeds" if row.seeds > 1 else ""
                entries += [Entry(f"{100 * row.coverage:.1f}%", over), Entry(number(row.width))]
            lines.append(entries)
    header = [first, "Judged", *(h for level in LEVELS for h in (f"{level:.0%} intervals hold", "Mean width"))]
    return Table(
        f"{what} Intervals judged (a test visit counts once in every combination that it has and every seed), the "
        f"share that holds the true change, and their mean width in {view.unit}.",
        header,
        lines,
    )


COVERAGE_SECTION = ReportSection(coverage_section, {COVERAGE: coverage_rows})
