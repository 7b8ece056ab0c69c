"""How much of the way from each hospital by itself to all data in one place a method gets, and its worst site."""

from __future__ import annotations

from math import isfinite

import pandas as pd

from permmoe_simulation.report.cells import MEAN, in_order
from permmoe_simulation.report.content import Entry, Fold, Item, Plot, Section, Table, Text, interval, number
from permmoe_simulation.report.figures import Mark, Panel, Row, row_plot
from permmoe_simulation.report.view import View, by_regime

WIDEST = 3.0
"""Intervals of a share reach to infinity where the gap itself may be zero; the figure stops here."""


def gap_section(view: View) -> Section | None:
    """Nothing where the study names no two methods to place the others between."""
    gaps, sites = view.study.gaps, view.study.site_results
    items: list[Item] = []
    if gaps is not None and not gaps.empty:
        items += [*(Text(sentence) for sentence in _sentences(view, gaps)), _plot(view, gaps)]
        items.append(Fold("Share of the gap by combination", by_regime(view, lambda r: [_table(view, gaps, r)])))
    if sites is not None and not sites.empty and sites["site"].nunique() > 1 and items:
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
    told, nothing = [], []
    for regime in regimes:
        of = averaged[averaged["regime"] == regime]
        if not of["share"].notna().any():
            nothing.append(regime)
            continue
        best = of.loc[of["share"].idxmax()]
        where = f"{regime}: " if len(regimes) > 1 else ""
        told.append(
            f"{where}{view.label(str(best['method']))}, {number(100 * best['share'], 0)}% (95% interval "
            f"{interval(100 * best['lower'], 100 * best['upper'], 0)}, n = {int(best['n'])})"
        )
    sentences = [f"Furthest on the way, averaged over combinations, gets {'; '.join(told)}."] if told else []
    if nothing:
        where = "" if len(regimes) == 1 else f" in {len(nothing)} of {len(regimes)} regimes ({', '.join(nothing)})"
        sentences.append(f"There is no gap beyond chance{where}, and so nothing to close.")
    return sentences


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
        "How far each method gets from the lower to the upper method, in RMSE averaged over combinations, with 95% "
        "bootstrap intervals over subjects. Where the gap is hardly larger than its own interval, so is that of a "
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
            entries.append(Entry(number(d["share"], 2), interval(d["lower"], d["upper"], 1)))
        rows.append([Entry(c), *entries])
    return Table(
        "Share of the gap with 95% intervals.", ["Combination", *map(view.label, methods)], rows, has_total=True
    )


def _worst_sites(view: View, sites: pd.DataFrame) -> Table:
    rows = []
    regimes = in_order(sites["regime"], view.regimes)
    for m in in_order(sites["method"], view.methods):
        entries = []
        for regime in regimes:
            of = sites[(sites["method"] == m) & (sites["regime"] == regime)].dropna(subset=["rmse"])
            if of.empty:
                entries.append(Entry("–", is_quiet=True))
                continue
            worst = of.loc[of["rmse"].idxmax()]
            detail = f"mean {number(float(of['rmse'].mean()))}; site {worst['site']}, n = {int(worst['n'])}"
            entries.append(Entry(number(worst["rmse"]), detail))
        rows.append([Entry(view.label(m)), *entries])
    return Table(
        f"The worst site: RMSE in {view.unit} on the test visits of the site where it is largest, averaged over "
        "combinations and seeds; below it the mean over sites, each counting the same.",
        ["Method", *regimes],
        rows,
    )
