"""Methods ranked over combinations: wins, and which ranks can be told apart."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import pandas as pd
from jaxtyping import Float

from permmoe_simulation.report.content import Entry, Item, Plot, Section, Table, Text, number, signed
from permmoe_simulation.report.figures import Mark, Panel, Row, row_plot
from permmoe_simulation.report.lookups import MEAN
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View, by_regime
from permmoe_simulation.study_tables import COMPARISONS

ALPHA = 0.05


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of methods over blocks, 1 being the least error."""

    methods: list[str]
    mean: Float[np.ndarray, " method"]
    blocks: int
    p_value: float
    """Friedman's test that all methods are alike."""
    critical_difference: float
    """Nemenyi's: mean ranks further apart differ at 5% (Demšar 2006, JMLR 7)."""


def ranking_section(view: View) -> Section | None:
    """Nothing for a single method."""
    if len(view.methods) < 2:
        return None
    items = by_regime(view, lambda regime: _items(view, regime))
    return Section("ranking", "Who wins how often", items) if items else None


def mean_ranks(results: pd.DataFrame, regime: str, methods: list[str]) -> Ranks | None:
    """Ranks within each block, a combination with one seed, that all the methods have; None for too few of them.

    Methods that answer only some combinations (unimodal ones) are left out.
    """
    rows = results[(results["regime"] == regime) & (results["stratum"] == "all") & (results["seed"] != "all")]
    rows = rows[rows["n"] > 0]
    table = rows.pivot_table(index=["combination", "seed"], columns="method", values="rmse")
    kept = [m for m in methods if m in table and table[m].notna().mean() > 0.9]
    blocks = table[kept].dropna()
    if len(kept) < 3 or len(blocks) < 3:
        return None
    # Two seconds to import, which every process of a study would wait for.
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    ranks = rankdata(blocks.to_numpy(), axis=1)
    k, n = len(kept), len(blocks)
    test = friedmanchisquare(*(blocks[m] for m in kept))
    critical = float(studentized_range.ppf(1 - ALPHA, k, np.inf)) / sqrt(2) * sqrt(k * (k + 1) / (6 * n))
    return Ranks(kept, ranks.mean(0), n, float(test.pvalue), critical)


def _items(view: View, regime: str) -> list[Item]:
    items: list[Item] = []
    if wins := _wins(view, regime):
        items.append(wins)
    found = mean_ranks(view.study.results, regime, list(view.methods))
    if found:
        items += [_plot(view, found), Text(_sentence(view, found))]
    return items


def _wins(view: View, regime: str) -> Table | None:
    """For each declared pair: combinations won, those of them beyond chance, and the change with one modality left."""
    comparisons = view.study.table(COMPARISONS)
    if comparisons is None:
        return None
    rows = []
    all_of = comparisons[
        (comparisons["regime"] == regime) & (comparisons["stratum"] == "all") & (comparisons["combination"] != MEAN)
    ]
    pooled = view.pooled[(view.pooled["regime"] == regime) & (view.pooled["stratum"] == "all")]
    rmse = {(str(r["method"]), str(r["combination"])): float(r["rmse"]) for r in pooled.to_dict("records")}
    singles = [c for c in view.combinations if view.size(c) == 1]
    for a, b in dict.fromkeys(zip(all_of["method"], all_of["reference"], strict=True)):
        pair = all_of[(all_of["method"] == a) & (all_of["reference"] == b) & (all_of["n"] > 0)]
        if pair.empty:
            continue
        is_clear = pair["p_holm"] < ALPHA if "p_holm" in pair else pair["difference"].abs() < 0
        won = pair["difference"] < 0
        change = {c: 100 * (rmse[a, c] / rmse[b, c] - 1) for c in singles if (a, c) in rmse and rmse.get((b, c), 0) > 0}
        rows.append(
            [
                Entry(f"{view.label(a)} against {view.label(b)}"),
                Entry(f"{int(won.sum())} of {len(pair)}"),
                Entry(f"{int((won & is_clear).sum())} better, {int((~won & is_clear).sum())} worse"),
                *(Entry(f"{signed(change[c], 1)}%" if c in change else "–") for c in singles),
            ]
        )
    if not rows:
        return None
    return Table(
        "Combinations in which the method named first has the lower RMSE; those in which the paired difference stays "
        "significant at 5% after Holm's correction over the combinations; and the change of its RMSE where a single "
        "modality is left.",
        ["Pair", "Wins", "After Holm", *singles],
        rows,
    )


def _plot(view: View, found: Ranks) -> Plot:
    order = np.argsort(found.mean)
    half = found.critical_difference / 2
    rows = [Row(view.label(found.methods[i])) for i in order]
    marks = [
        Mark(row, float(found.mean[i]), view.looks[found.methods[i]], found.mean[i] - half, found.mean[i] + half)
        for row, i in enumerate(order)
    ]
    return Plot(
        row_plot(rows, [Panel("", "mean rank (1: least error)", marks)], view.modalities),
        "Critical-difference plot of mean ranks: "
        + ", ".join(f"{view.label(found.methods[i])} {number(float(found.mean[i]))}" for i in order)
        + ".",
        f"Mean rank of RMSE over {found.blocks} blocks, each one combination with one seed. Bars are half the critical "
        f"difference of Nemenyi ({number(found.critical_difference)} ranks at 5%) to either side: methods whose bars "
        "do not overlap differ. Blocks share subjects and are not independent, so the test is more certain than it "
        "should be: the paired differences above, over subjects, decide.",
    )


def _sentence(view: View, found: Ranks) -> str:
    order = np.argsort(found.mean)
    best = found.methods[order[0]]
    near = [
        view.label(found.methods[i])
        for i in order[1:]
        if found.mean[i] - found.mean[order[0]] <= found.critical_difference
    ]
    level = f"; not told apart from it: {', '.join(near)}" if near else ", ahead of all others"
    return f"{view.label(best)} has the best mean rank, {number(float(found.mean[order[0]]))}{level}."


RANKING = ReportSection(ranking_section)
