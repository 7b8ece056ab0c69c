"""The sections that answer how well each method predicts."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

import numpy as np

from permmoe_simulation.report.content import (
    NO_SUBJECT,
    Entry,
    Fold,
    Item,
    Plot,
    Section,
    Table,
    Text,
    count,
    interval,
    number,
)
from permmoe_simulation.report.figures import Mark, Panel, row_plot
from permmoe_simulation.report.lookups import Score, Scores, in_order, mean_rmse, scores, subjects
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View, by_regime, spread


def rmse_section(view: View) -> Section:
    """The main figure: every combination, every method."""
    missing = [view.label(m) for m in in_order([*view.summary.methods, *view.methods])
               if m not in set(view.pooled["method"])]  # fmt: skip

    def build(regime: str) -> list[Item]:
        found = scores(view.pooled, regime, "all")
        best = best_sentence(view, found, f"In regime {regime}" if len(view.regimes) > 1 else "Here")
        return [*([Text(best)] if best else []), _rmse_plot(view, found)]

    items = by_regime(view, build)
    if missing:
        items.append(Text(f"Without results averaged over seeds, and so not shown: {', '.join(missing)}."))
    return Section("rmse", "Error by combination of modalities", items)


def numbers_section(view: View) -> Section:
    """The same figures to read off: RMSE with intervals, then MAE, R² and the spread over seeds."""

    def build(regime: str) -> list[Item]:
        found = scores(view.pooled, regime, "all")
        where = f", regime {regime}" if len(view.regimes) > 1 else ""
        main = score_table(view, found, f"RMSE in {view.unit}, {view.intervals}{where}.")
        return [
            main
            if view.are_combinations_few
            else Fold(f"RMSE of all {len(view.combinations)} combinations{where}", [main]),
            Fold(
                f"MAE and R²{where}",
                [
                    _plain_table(view, found, f"Mean absolute error in {view.unit}", lambda s: s.mae, -1.0),
                    _plain_table(view, found, "R² on the test subjects", lambda s: s.r2, 1.0),
                ],
            ),
        ]

    items = by_regime(view, build)
    if len(view.regimes) > 1:
        items.insert(0, _regime_table(view))
    spread = _seed_table(view)
    if spread:
        items.append(spread if len(spread.rows) <= 12 else Fold("Spread over seeds", [spread]))
    return Section("numbers", "The numbers", items)


def _rmse_label(view: View) -> str:
    return f"RMSE ({view.unit}; further left is better)"


def best_sentence(view: View, found: Scores, where: str) -> str:
    """Which method errs least, and the others' level, over the combinations that each of them answers."""
    means = {m: mean_rmse(found, m, view.combinations) for m in view.methods}
    most = max((n for _, n in means.values()), default=0)
    level = {m: v for m, (v, n) in means.items() if n == most and n}
    if len(level) < 2:
        return ""
    order = sorted(level, key=lambda m: level[m])
    others = ", ".join(f"{view.label(m)} {number(level[m], 3)}" for m in order[1:])
    return (
        f"{where} {view.label(order[0])} errs least, {number(level[order[0]], 3)} {view.unit} on average over "
        f"{count(most, 'combination')}; {others}. Whether a distance is beyond chance, the paired differences tell."
    )


def _rmse_plot(view: View, found: Scores) -> Plot:
    methods = [m for m in view.methods if any(method == m for method, _ in found)]
    legend = [(view.label(m), view.looks[m]) for m in methods]
    offsets = dict(zip(methods, spread(len(methods)), strict=True))
    height = max(0.27, 0.085 * len(methods) + 0.12)
    if not view.are_combinations_few:
        marks = [
            mark
            for row, size in enumerate(view.sizes)
            for m in methods
            for mark in _group_marks(view, found, m, row, size, offsets[m])
        ]
        svg = row_plot(
            view.size_rows(),
            [Panel("", _rmse_label(view), marks)],
            view.modalities,
            row_height=1.6 * height,
            legend=legend,
        )
        return Plot(
            svg,
            f"RMSE of {count(len(methods), 'method')} by number of modalities; the table below has the numbers.",
            f"RMSE on the test subjects. Of {len(view.combinations)} combinations, too many to list, each small dot is "
            "one; the large mark is the mean of its row. The table below lists every combination with its interval.",
        )
    notes = {c: subjects(found, c) for c in view.combinations}
    remarks = {row: NO_SUBJECT for row, c in enumerate(view.combinations) if notes[c] == "0"}
    remarks |= {row: "not evaluated" for row, c in enumerate(view.combinations) if notes[c] == "–"}
    marks = [
        Mark(row, score.rmse, view.looks[m], score.lower, score.upper, offsets[m])
        for row, c in enumerate(view.combinations)
        for m in methods
        if (score := found.get((m, c))) is not None and score.n > 0
    ]
    averaged = ", averaged over seeds" if (view.pooled["seed"] == "all").any() else ""
    svg = row_plot(
        view.combination_rows(notes), [Panel("", _rmse_label(view), marks, remarks)], view.modalities,
        note_title="n", row_height=height, legend=legend,
    )  # fmt: skip
    return Plot(
        svg,
        f"Dot plot of RMSE with 95% intervals: {len(view.combinations)} combinations of modalities by "
        f"{count(len(methods), 'method')}. The table below has the same numbers.",
        "RMSE on the test subjects when a method sees only the modalities with dark dots, "
        f"{view.intervals}{averaged}. n counts the subjects who have at least these modalities; the rest of "
        "theirs were withheld. Intervals of the same subjects move together: judge two methods by their paired "
        "difference below, not by overlap.",
    )


def _group_marks(view: View, found: Scores, method: str, row: int, size: int, offset: float) -> list[Mark]:
    """A faint dot for each combination of a size, and their mean."""
    names = [c for c in view.combinations if view.size(c) == size]
    look = view.looks[method]
    dots = [Mark(row, found[method, c].rmse, look, offset=offset, is_faint=True) for c in names if (method, c) in found]
    mean, _ = mean_rmse(found, method, names)
    return [*dots, Mark(row, mean, look, offset=offset)]


def score_table(view: View, found: Scores, caption: str) -> Table:
    methods = [m for m in view.methods if any(method == m for method, _ in found)]
    rows = []
    for c in view.combinations:
        best = min((found[m, c].rmse for m in methods if has_figure(found, m, c)), default=None)
        rows.append([Entry(c), Entry(subjects(found, c)), *(_score_entry(found.get((m, c)), best) for m in methods)])
    means = {m: mean_rmse(found, m, view.combinations) for m in methods}
    most = max((number_of for _, number_of in means.values()), default=0)
    best_mean = min((v for v, n in means.values() if n == most and isfinite(v)), default=None)
    total = [
        Entry(
            number(v),
            "" if n == most else f"of {n} only",
            is_strong=n == most and v == best_mean,
            is_quiet=not isfinite(v),
        )
        for v, n in means.values()
    ]
    rows.append([Entry("mean"), Entry(""), *total])
    return Table(
        f"{caption} Bold: the lowest in its row, which does not make the difference a clear one. "
        "The mean weighs combinations equally.",
        ["Combination", "n", *map(view.label, methods)],
        rows,
        has_total=True,
    )


def _plain_table(view: View, found: Scores, caption: str, value: Callable[[Score], float], better: float) -> Table:
    """One number in each table cell; `better` is 1 where more is better and −1 where less is."""
    methods = [m for m in view.methods if any(method == m for method, _ in found)]
    rows = []
    for c in view.combinations:
        values = {m: value(found[m, c]) for m in methods if has_figure(found, m, c)}
        finite = [v for v in values.values() if isfinite(v)]
        best = better * max(better * v for v in finite) if finite else None
        entries = [
            Entry(number(values[m]), is_strong=values[m] == best)
            if m in values
            else Entry(NO_SUBJECT if (m, c) in found and found[m, c].n == 0 else "–", is_quiet=True)
            for m in methods
        ]
        rows.append([Entry(c), Entry(subjects(found, c)), *entries])
    return Table(f"{caption}. Bold: the best in its row.", ["Combination", "n", *map(view.label, methods)], rows)


def has_figure(found: Scores, method: str, combination: str) -> bool:
    score = found.get((method, combination))
    return score is not None and score.n > 0 and isfinite(score.rmse)


def _score_entry(score: Score | None, best: float | None) -> Entry:
    if score is None:
        return Entry("–", is_quiet=True)
    if score.n == 0:
        return Entry(NO_SUBJECT, is_quiet=True)
    if not isfinite(score.rmse):
        return Entry("no figure", is_quiet=True)
    return Entry(number(score.rmse), interval(score.lower, score.upper), is_strong=score.rmse == best)


def _regime_table(view: View) -> Table:
    found = {regime: scores(view.pooled, regime, "all") for regime in view.regimes}
    rows = [
        [Entry(regime), *(Entry(number(mean_rmse(found[regime], m, view.combinations)[0])) for m in view.methods)]
        for regime in view.regimes
    ]
    return Table(
        f"Mean RMSE over combinations, in {view.unit}, by regime.",
        ["Regime", *map(view.label, view.methods)],
        rows,
    )


def _seed_table(view: View) -> Table | None:
    """How much a method's mean RMSE depends on its seed."""
    results = view.study.results
    single = results[(results["seed"] != "all") & (results["stratum"] == "all") & (results["n"] > 0)]
    rows = []
    for m in view.methods:
        for regime in view.regimes:
            chosen = single[(single["method"] == m) & (single["regime"] == regime)]
            means = chosen.groupby("seed")["rmse"].mean().dropna().to_numpy()
            if len(means) > 1:
                name = view.label(m) + (f" ({regime})" if len(view.regimes) > 1 else "")
                texts = [number(float(v), 3) for v in (means.mean(), np.std(means, ddof=1), means.min(), means.max())]
                rows.append([Entry(name), Entry(str(len(means))), *map(Entry, texts)])
    if not rows:
        return None
    return Table(
        f"Spread over seeds of the mean RMSE over combinations, in {view.unit}. Where each seed has a split of its "
        "own, part of it is that of the test subjects.",
        ["Method", "Seeds", "Mean", "Standard deviation", "Lowest", "Highest"],
        rows,
    )


RMSE = ReportSection(rmse_section)
NUMBERS = ReportSection(numbers_section)
