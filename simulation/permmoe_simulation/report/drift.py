"""Imputation drift: what a method loses on the same subjects when modalities are withheld from it."""

from __future__ import annotations

from math import isfinite, nan
from typing import Any

import numpy as np
import pandas as pd

from permmoe.evaluation.intervals import paired_difference
from permmoe_simulation.report.content import (
    Entry,
    Fold,
    Item,
    Plot,
    Table,
    Text,
    count,
    digits_for,
    interval,
    signed,
)
from permmoe_simulation.report.figures import Mark, Panel, Row, row_plot
from permmoe_simulation.report.lookups import MEAN, in_order
from permmoe_simulation.report.view import View, spread
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.studies.verdicts import Verdict, corrected, verdict
from permmoe_simulation.study_tables import StudyTable, tested, text, whole, with_interval

DRIFT = StudyTable(
    "drift",
    "RMSE with a combination (or `mean`) minus RMSE with all modalities, on the subjects who have all of them",
    (*text("method", "regime", "combination"), *whole("n", unit="subjects"), *with_interval("difference"), *tested()),
)


def drift_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of DRIFT; a method without a prediction from all modalities has none."""
    rows: list[dict[str, Any]] = []
    *partial_names, _ = done.errors.combinations
    for method, regime in done.errors.by_method:
        *partial, full = done.errors.squared(method, regime, MEAN)
        if np.isnan(full).all():
            continue
        for combination in [MEAN, *partial_names]:
            chosen = partial if combination == MEAN else [partial[partial_names.index(combination)]]
            d = paired_difference(chosen, [full] * len(chosen))
            rows.append({"method": method, "regime": regime, "combination": combination, "n": d.n,
                         "difference": d.estimate, "lower": d.lower, "upper": d.upper, "seeds": d.seeds,
                         "p_value": d.p_value})  # fmt: skip
    if not rows:
        return pd.DataFrame()
    families = ["averages" if row["combination"] == MEAN else "combinations" for row in rows]
    return pd.DataFrame(rows).assign(p_holm=corrected([row["p_value"] for row in rows], families))


def drift_items(view: View) -> list[Item]:
    """What withholding modalities costs on the same subjects."""
    drift = view.study.table(DRIFT)
    if drift is None or len(view.modalities) < 2:
        return []
    regimes = in_order(drift["regime"], view.regimes)
    blocks = {regime: _drift_block(view, drift[drift["regime"] == regime], regime) for regime in regimes}
    first, *others = regimes
    return [*blocks[first], *(Fold(f"Imputation drift, regime {r}", blocks[r]) for r in others if blocks[r])]


def _drift_block(view: View, drift: pd.DataFrame, regime: str) -> list[Item]:
    methods = _depending_on_input(view, drift)
    if not methods:
        return []
    sentences = [drift_sentence(view, regime, methods)]
    groups = [g for g in view.groups() if set(g) & set(drift["combination"])]
    lines = [row for row, g in zip(view.combination_rows() if view.are_combinations_few else view.size_rows(),
                                   view.groups(), strict=True) if g in groups]  # fmt: skip
    lines = [Row("mean of all"), *(Row(r.label, r.observed, r.note, j == 0 or r.starts_group)
                                   for j, r in enumerate(lines))]  # fmt: skip
    offsets = dict(zip(methods, spread(len(methods)), strict=True))
    marks = []
    for m in methods:
        own = drift[drift["method"] == m].set_index("combination")
        for j, names in enumerate([[MEAN], *groups]):
            rows = own.loc[[n for n in names if n in own.index]]
            if len(names) > 1:
                marks.append(Mark(j, float(rows["difference"].mean()), view.looks[m], offset=offsets[m]))
                continue
            marks += [Mark(j, r["difference"], view.looks[m], r["lower"], r["upper"], offset=offsets[m])
                      for r in rows.to_dict("records")]  # fmt: skip
    n = int(drift["n"].max())
    label = f"RMSE with the combination − RMSE with all modalities ({view.unit})\n← better without the rest | worse →"
    plot = Plot(
        row_plot(lines, [Panel("", label, marks)], view.modalities, row_height=max(0.27, 0.085 * len(methods) + 0.12),
                 legend=[(view.label(m), view.looks[m]) for m in methods], is_difference=True),
        f"Dot plot of imputation drift by combination. {' '.join(sentences)}",
        f"Imputation drift: RMSE when only the dark modalities are given, minus RMSE when all are, on the same {n} "
        f"subjects who have all of them, {view.intervals}. It holds both what the withheld images "
        "would have told and what their stand-ins get wrong; a method that imputes nothing shows the former alone.",
    )  # fmt: skip
    return [*map(Text, sentences), plot, Fold("Imputation drift as numbers", [_drift_table(view, drift, methods)])]


def _depending_on_input(view: View, drift: pd.DataFrame) -> list[str]:
    """Methods whose error depends on what they are given."""
    largest = drift["difference"].abs().groupby(drift["method"]).max()
    return [m for m in in_order(drift["method"], view.methods) if largest[m] > 0]


def drift_sentence(view: View, regime: str, methods: list[str]) -> str:
    """What the methods lose, in one regime, when modalities are withheld; empty where no subject has all of them."""
    drift = view.study.table(DRIFT)
    if drift is None:
        return ""
    drift = drift[(drift["regime"] == regime) & drift["method"].isin(methods)]
    depending = _depending_on_input(view, drift) if len(drift) else []
    if not depending:
        return ""
    where = f"In regime {regime}, with" if len(view.regimes) > 1 else "With"
    statements = "; ".join(_drift_statement(view, drift[drift["method"] == m], m) for m in depending)
    return f"{where} modalities withheld from subjects who have all of them, RMSE changes: {statements}."


def _drift_statement(view: View, drift: pd.DataFrame, method: str) -> str:
    single = drift[drift["combination"] != MEAN].dropna(subset=["difference"])
    mean = drift[drift["combination"] == MEAN].iloc[0]
    worst = single.loc[single["difference"].idxmax()]
    digits = digits_for(float(mean["difference"]))
    between = interval(mean["lower"], mean["upper"], digits)
    told = _verdicts(single)
    worse = f"worse beyond chance in {told.count('higher')} of {count(len(single), 'combination')}"
    return (
        f"{view.label(method)} {signed(mean['difference'], digits)} {view.unit} averaged over combinations "
        f"({f'95% interval {between}, ' if between else ''}n = {int(mean['n'])}), "
        f"{'not judged' if set(told) <= {'not judged'} else worse}, most with {worst['combination']} "
        f"({signed(worst['difference'], digits_for(worst['difference']))})"
    )


def _verdicts(drift: pd.DataFrame) -> list[Verdict]:
    p_values = drift["p_holm"] if "p_holm" in drift else drift["difference"] * nan
    return [verdict(float(d), float(p)) for d, p in zip(drift["difference"], p_values, strict=True)]


def _drift_table(view: View, drift: pd.DataFrame, methods: list[str]) -> Table:
    table = drift.assign(verdict=_verdicts(drift)).set_index(["method", "combination"])
    rows = []
    for c in [MEAN, *view.combinations[:-1]]:
        entries = []
        for m in methods:
            if (m, c) not in table.index or not isfinite(table.loc[(m, c), "difference"]):
                entries.append(Entry("–", is_quiet=True))
                continue
            row = table.loc[(m, c)]
            strong = row["verdict"] in ("lower", "higher")
            entries.append(Entry(signed(row["difference"], 3), interval(row["lower"], row["upper"], 3), strong))
        numbers = {int(n) for (_, name), n in table["n"].items() if name == c}
        rows.append([Entry("mean of all" if c == MEAN else c), Entry(" / ".join(map(str, sorted(numbers)))), *entries])
    return Table(
        f"RMSE with the combination minus RMSE with all modalities, in {view.unit}, {view.intervals}. Bold: beyond "
        "chance after Holm's correction over all methods and regimes.",
        ["Combination", "n", *map(view.label, methods)],
        rows,
    )
