"""Methods ranked over combinations: how often each wins. Ranks are points; what is beyond chance, differences tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from permmoe.evaluation.intervals import LEVEL
from permmoe_simulation.report.content import Entry, Item, Plot, Section, Table, Text, number, signed
from permmoe_simulation.report.figures import Mark, Panel, Row, row_plot
from permmoe_simulation.report.lookups import MEAN
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View, by_regime
from permmoe_simulation.study_tables import COMPARISONS


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of methods over blocks, 1 being the least error."""

    methods: list[str]
    mean: Float[np.ndarray, " method"]
    blocks: int


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
    return Ranks(kept, blocks.rank(axis=1).to_numpy().mean(0), len(blocks))


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
        won = pair["difference"] < 0
        change = {c: 100 * (rmse[a, c] / rmse[b, c] - 1) for c in singles if (a, c) in rmse and rmse.get((b, c), 0) > 0}
        rows.append(
            [
                Entry(f"{view.label(a)} against {view.label(b)}"),
                Entry(f"{int(won.sum())} of {len(pair)}"),
                Entry(beyond_chance(pair)),
                *(Entry(f"{signed(change[c], 1)}%" if c in change else "–") for c in singles),
            ]
        )
    if not rows:
        return None
    return Table(
        "Combinations in which the method named first has the lower RMSE; those in which the paired difference is "
        "beyond chance after Holm's correction over all pairs and regimes; and the change of its RMSE where a single "
        "modality is left.",
        ["Pair", "Wins", "Beyond chance", *singles],
        rows,
    )


def _plot(view: View, found: Ranks) -> Plot:
    order = np.argsort(found.mean)
    rows = [Row(view.label(found.methods[i])) for i in order]
    marks = [Mark(row, float(found.mean[i]), view.looks[found.methods[i]]) for row, i in enumerate(order)]
    return Plot(
        row_plot(rows, [Panel("", "mean rank (1: least error)", marks)], view.modalities),
        "Dot plot of mean ranks: "
        + ", ".join(f"{view.label(found.methods[i])} {number(float(found.mean[i]))}" for i in order)
        + ".",
        f"Mean rank of RMSE over {found.blocks} blocks, each one combination with one seed. Blocks share subjects and "
        "trainings, so that no test of ranks would be worth its name: the paired differences above decide.",
    )


def _sentence(view: View, found: Ranks) -> str:
    best = int(np.argmin(found.mean))
    return f"{view.label(found.methods[best])} has the best mean rank, {number(float(found.mean[best]))}."


def beyond_chance(pair: pd.DataFrame) -> str:
    """In how many combinations a pair's method is better and worse beyond chance, in words."""
    judged = pair[pair["p_holm"].notna()] if "p_holm" in pair else pair[:0]
    if not len(judged):
        return "not judged"
    told = judged["difference"][judged["p_holm"] < LEVEL]
    return f"{int((told < 0).sum())} better, {int((told > 0).sum())} worse"


RANKING = ReportSection(ranking_section)
