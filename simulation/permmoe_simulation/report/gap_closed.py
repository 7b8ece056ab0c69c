"""How much of the gap between two methods each other method closes, and the site where each method is worst."""

from __future__ import annotations

from math import isfinite, isnan
from typing import Any

import numpy as np
import pandas as pd

from permmoe.evaluation.figures import Figure, difference_figure
from permmoe.evaluation.intervals import judged_p_value, share_of_gap, why_not_judged
from permmoe_simulation.report.content import Entry, Fold, Item, Plot, Section, Table, Text, number
from permmoe_simulation.report.figures import Mark, Panel, Row, row_plot
from permmoe_simulation.report.lookups import MEAN, in_order
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View, by_regime
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.studies.verdicts import corrected, verdict
from permmoe_simulation.study_tables import OUTCOME_UNIT, Column, StudyTable, real, text, whole, with_interval

WIDEST = 3.0
"""Intervals of a share reach to infinity where the gap itself may be zero; the figure stops here."""


GAPS = StudyTable(
    "gaps",
    "the share of the way from the lower to the upper method that a method gets, for a combination (or `mean`)",
    (
        *text("method", "regime", "combination"),
        *whole("n", unit="subjects"),
        *with_interval("share", unit="share of the gap"),
        Column("seeds", "whole", may_be_absent=True),
        *real("gap_p_holm", may_be_absent=True),
    ),
)
SITE_RESULTS = StudyTable(
    "site_results",
    "the test visits of a site and the RMSE on them, averaged over combinations and seeds",
    (*text("method", "regime", "site"), *whole("n", unit="subjects"), *real("rmse", unit=OUTCOME_UNIT)),
)


def gap_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of GAPS; none where the study names no two methods to place the others between.

    A gap that is judged and not above zero beyond chance has no shares. The tests of the gaps of all regimes are
    corrected together, those of the mean and those of single combinations each.
    """
    gap, errors = done.config.gap, done.errors
    if gap is None:
        return pd.DataFrame()
    gaps: dict[tuple[str, str], Figure] = {}
    for _, _, regime in errors.finished([(gap.lower, gap.upper)]):
        for combination in [MEAN, *errors.combinations]:
            low, high = (errors.squared(name, regime, combination) for name in (gap.lower, gap.upper))
            gaps[regime, combination] = difference_figure(low, high)
    tests = [judged_p_value(figure) for figure in gaps.values()]
    families = ["averages" if combination == MEAN else "combinations" for _, combination in gaps]
    p_holm = dict(zip(gaps, corrected(tests, families).tolist(), strict=True))
    rows = []
    for method, regime in errors.by_method:
        for combination in [MEAN, *errors.combinations]:
            key = (regime, combination)
            if key not in gaps:
                continue
            own, low = (errors.squared(name, regime, combination) for name in (method, gap.lower))
            share = share_of_gap(difference_figure(low, own), gaps[key])
            is_there = gaps[key].value > 0 and verdict(gaps[key].value, p_holm[key]) != "not told"
            figures = (share.estimate, share.lower, share.upper) if is_there else (np.nan, np.nan, np.nan)
            rows.append({"method": method, "regime": regime, "combination": combination, "n": share.n,
                         **dict(zip(("share", "lower", "upper"), figures, strict=True)), "seeds": share.seeds,
                         "gap_p_holm": p_holm[key]})  # fmt: skip
    return pd.DataFrame(rows)


def site_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of SITE_RESULTS."""
    rows: list[dict[str, Any]] = []
    for (method, regime), errors in done.errors.by_method.items():
        squared = np.stack(done.errors.squared(method, regime, MEAN))
        for site in sorted(set(errors.site.ravel()) - {""}):
            here = np.where(errors.site == site, squared, np.nan)
            known = ~np.isnan(here)
            n = known.sum(2)
            means = np.where(known, here, 0.0).sum(2)[n > 0] / n[n > 0]
            visits = int(known.any(0).sum())
            rows.append({"method": method, "regime": regime, "site": site, "n": visits,
                         "rmse": float(np.sqrt(means).mean()) if len(means) else np.nan})  # fmt: skip
    return pd.DataFrame(rows)


def gap_closed_section(view: View) -> Section | None:
    """Nothing where the study names no two methods to place the others between."""
    gaps, sites = view.study.table(GAPS), view.study.table(SITE_RESULTS)
    items: list[Item] = []
    if gaps is not None:
        items += [*(Text(sentence) for sentence in _sentences(view, gaps)), _plot(view, gaps)]
        items.append(Fold("Share of the gap by combination", by_regime(view, lambda r: [_table(view, gaps, r)])))
    if sites is not None and sites["site"].nunique() > 1 and items:
        items.append(_worst_sites(view, sites))
    return Section("gap", "Share of the gap that is closed", items) if items else None


def _shown(view: View, gaps: pd.DataFrame) -> list[str]:
    """Without the two ends, whose shares are 0 and 1 by definition."""
    averaged = gaps[gaps["combination"] == MEAN]
    ends = averaged.groupby("method")["share"].agg(["min", "max"])
    return [m for m in view.methods if m in ends.index and tuple(ends.loc[m]) not in ((0.0, 0.0), (1.0, 1.0))]


def _sentences(view: View, gaps: pd.DataFrame) -> list[str]:
    averaged = gaps[(gaps["combination"] == MEAN) & gaps["method"].isin(_shown(view, gaps))]
    regimes = in_order(averaged["regime"], view.regimes)
    best_by_regime, without_gap = [], []
    for regime in regimes:
        rows = averaged[averaged["regime"] == regime]
        if not rows["share"].notna().any():
            without_gap.append(regime)
            continue
        best = rows.loc[rows["share"].idxmax()]
        where = f"{regime}: " if len(regimes) > 1 else ""
        best_by_regime.append(
            f"{where}{view.label(str(best['method']))}, {number(100 * best['share'], 0)}% ("
            + (f"95% interval {between}, " if (between := share_interval(best)) else "")
            + f"n = {int(best['n'])})"
        )
    sentences = (
        [
            "The method that closes most of the gap in point estimates, averaged over combinations: "
            f"{'; '.join(best_by_regime)}."
        ]
        if best_by_regime
        else []
    )
    if unjudged := sorted({why_not_judged(int(n), int(s)) for n, s in _tested(averaged)} - {""}):
        sentences.append(f"Whether there is a gap at all is not judged in every regime: {'; '.join(unjudged)}.")
    if without_gap:
        where = (
            "" if len(regimes) == 1 else f" in {len(without_gap)} of {len(regimes)} regimes ({', '.join(without_gap)})"
        )
        sentences.append(f"There is no gap beyond chance{where}, and so nothing to close.")
    return sentences


def _tested(gaps: pd.DataFrame) -> list[tuple[int, int]]:
    """n and seeds of each row; none of an earlier version."""
    return list(zip(gaps["n"], gaps["seeds"], strict=True)) if "seeds" in gaps else []


def share_interval(row: pd.Series[Any]) -> str:
    """`23 to 144`, percent; an end that the data do not bound is infinite, and empty where there is no interval."""
    ends = [float(row[name]) for name in ("lower", "upper")]
    if any(isnan(end) for end in ends):
        return ""
    texts = [number(100 * end, 0) if isfinite(end) else "−∞" if end < 0 else "∞" for end in ends]
    return " to ".join(texts)


def _plot(view: View, gaps: pd.DataFrame) -> Plot:
    averaged = gaps[gaps["combination"] == MEAN].set_index(["regime", "method"])
    regimes, methods = in_order(gaps["regime"], view.regimes), _shown(view, gaps)
    rows: list[Row] = []
    marks: list[Mark] = []
    remarks: dict[int, str] = {}
    for regime in regimes:
        for m in methods:
            if (regime, m) not in averaged.index:
                continue
            starts = bool(rows) and m == methods[0]
            label = f"{view.label(m)} ({regime})" if len(regimes) > 1 else view.label(m)
            rows.append(Row(label, starts_group=starts))
            d = averaged.loc[(regime, m)]
            if not isfinite(d["share"]) or abs(d["share"]) > WIDEST:
                is_known = isfinite(d["share"])
                share = f"{number(100 * d['share'], 0)}%: outside the figure"
                remarks[len(rows) - 1] = share if is_known else "no gap beyond chance"
                continue
            lower, upper = max(d["lower"], -WIDEST), min(d["upper"], WIDEST)
            marks.append(Mark(len(rows) - 1, d["share"], view.looks[m], lower, upper))
    label = "share of the gap, averaged over combinations\n0: as the lower method, 1: as the upper one"
    return Plot(
        row_plot(rows, [Panel("", label, marks, remarks)], view.modalities),
        f"Dot plot of the share of the gap that {len(methods)} methods close; the tables have the numbers.",
        "How far each method gets from the lower to the upper method, in RMSE averaged over combinations, "
        f"{view.intervals}. Where the gap is hardly larger than its own interval, so is that of a "
        f"share: wide intervals say that there is little to close. Intervals are cut at ±{number(WIDEST, 0)}.",
    )


def _table(view: View, gaps: pd.DataFrame, regime: str) -> Table:
    found = gaps[gaps["regime"] == regime].set_index(["method", "combination"])
    methods = _shown(view, gaps)
    rows = []
    for c in [*view.combinations, MEAN]:
        entries = []
        for m in methods:
            if (m, c) not in found.index or not isfinite(found.loc[(m, c), "share"]):
                entries.append(Entry("–", is_quiet=True))
                continue
            d = found.loc[(m, c)]
            entries.append(Entry(f"{number(100 * d['share'], 0)}%", share_interval(d)))
        rows.append([Entry(c), *entries])
    return Table(
        f"Share of the gap, percent, {view.intervals}.",
        ["Combination", *map(view.label, methods)],
        rows,
        has_total=True,
    )


def _worst_sites(view: View, sites: pd.DataFrame) -> Table:
    rows = []
    regimes = in_order(sites["regime"], view.regimes)
    for m in in_order(sites["method"], view.methods):
        entries = []
        for regime in regimes:
            own = sites[(sites["method"] == m) & (sites["regime"] == regime)].dropna(subset=["rmse"])
            if own.empty:
                entries.append(Entry("–", is_quiet=True))
                continue
            worst = own.loc[own["rmse"].idxmax()]
            detail = f"mean {number(float(own['rmse'].mean()))}; site {worst['site']}, n = {int(worst['n'])}"
            entries.append(Entry(number(worst["rmse"]), detail))
        rows.append([Entry(view.label(m)), *entries])
    return Table(
        f"The worst site: RMSE in {view.unit} on the test visits of the site where it is largest, averaged over "
        "combinations and seeds; below it the mean over sites, each counting the same.",
        ["Method", *regimes],
        rows,
    )


GAP_CLOSED = ReportSection(gap_closed_section, {GAPS: gap_rows, SITE_RESULTS: site_rows})
