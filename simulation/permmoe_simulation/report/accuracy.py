"""The sections that answer how well each method predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite, nan

import numpy as np
import pandas as pd

from permmoe_simulation.report.cells import (
    MEAN,
    STRATA,
    Score,
    Scores,
    in_order,
    mean_rmse,
    scores,
    subjects,
)
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
from permmoe_simulation.report.figures import Curve, Mark, Panel, Row, learning_curves, row_plot
from permmoe_simulation.report.style import MUTED, Look
from permmoe_simulation.report.view import View, by_regime, spread


def rmse_section(view: View) -> Section:
    """The main figure: every combination, every method."""
    missing = [view.label(m) for m in in_order([*view.summary.methods, *view.methods])
               if m not in set(view.pooled["method"])]  # fmt: skip

    def build(regime: str) -> list[Item]:
        found = scores(view.pooled, regime, "all")
        best = _best(view, found, f"In regime {regime}" if len(view.regimes) > 1 else "Here")
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
        main = _score_table(view, found, f"RMSE in {view.unit} with 95% bootstrap intervals over subjects{where}.")
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


def strata_section(view: View) -> Section | None:
    """Where the paper looks in particular: small changes, and severe baselines. Nothing for an outcome without them."""
    if set(_strata(view)) <= {"all"}:
        return None

    def build(regime: str) -> list[Item]:
        by_stratum = {name: scores(view.pooled, regime, name) for name in _strata(view)}
        by_stratum = {name: found for name, found in by_stratum.items() if any(s.n for s in found.values())}
        where = f", regime {regime}" if len(view.regimes) > 1 else ""
        if not set(by_stratum) - {"all"}:
            return [Text(f"No test subject falls into a stratum{where}.")]
        told = [_best(view, found, f"{STRATA.get(name, name)}:") for name, found in by_stratum.items() if name != "all"]
        return [
            *(Text(sentence) for sentence in told if sentence),
            _strata_plot(view, by_stratum),
            *(
                Fold(
                    f"Numbers: {STRATA.get(name, name)}{where}",
                    [_score_table(view, found, f"RMSE in {view.unit}, {STRATA.get(name, name)}.")],
                )
                for name, found in by_stratum.items()
                if name != "all"
            ),
        ]

    return Section("strata", "Small changes and severe baselines", by_regime(view, build))


def learning_section(view: View) -> Section:
    """RMSE on validation visits while training."""
    learning = view.study.learning
    title = "Learning"
    if learning is None or learning.empty:
        return Section("learning", title, [Text("Not available: the study left no learning curves (learning.csv).")])
    return Section("learning", title, by_regime(view, lambda regime: _learning_items(view, learning, regime)))


def _rmse_label(view: View) -> str:
    return f"RMSE ({view.unit}; further left is better)"


def _best(view: View, found: Scores, where: str) -> str:
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
        "RMSE on the test subjects when a method sees only the modalities with dark dots, with 95% bootstrap intervals "
        f"over subjects{averaged}. n counts the subjects who have at least these modalities; the rest of "
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


def _score_table(view: View, found: Scores, caption: str) -> Table:
    methods = [m for m in view.methods if any(method == m for method, _ in found)]
    rows = []
    for c in view.combinations:
        best = min((found[m, c].rmse for m in methods if _has_figure(found, m, c)), default=None)
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
    """One number a cell; `better` is 1 where more is better and −1 where less is."""
    methods = [m for m in view.methods if any(method == m for method, _ in found)]
    rows = []
    for c in view.combinations:
        values = {m: value(found[m, c]) for m in methods if _has_figure(found, m, c)}
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


def _has_figure(found: Scores, method: str, combination: str) -> bool:
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


def _strata(view: View) -> list[str]:
    return in_order(view.pooled["stratum"], STRATA)


def _strata_plot(view: View, by_stratum: Mapping[str, Scores]) -> Plot:
    rows = [Row(view.label(m)) for m in view.methods]
    panels = []
    for name, found in by_stratum.items():
        numbers = [s.n for s in found.values() if s.n > 0]
        marks, remarks = [], {}
        for row, m in enumerate(view.methods):
            shown = [c for c in view.combinations if _has_figure(found, m, c)]
            if not shown:
                remarks[row] = "no figure"
                continue
            look = view.looks[m]
            marks += [Mark(row, found[m, c].rmse, look, is_faint=True) for c in shown]
            marks.append(Mark(row, mean_rmse(found, m, shown)[0], look))
        extent = f"{min(numbers)} to {max(numbers)}"
        panels.append(Panel(STRATA.get(name, name), f"RMSE ({view.unit})\nn {extent} a combination", marks, remarks))
    return Plot(
        row_plot(rows, panels, view.modalities, row_height=0.3),
        f"RMSE of {count(len(view.methods), 'method')} in {len(by_stratum)} strata; tables below have the numbers.",
        "Each small dot is one combination of modalities, the large mark their mean. The scales differ: larger changes "
        f"are harder to hit. Δ is the {view.summary.outcome.name} that was to be predicted.",
    )


def _learning_items(view: View, learning: pd.DataFrame, regime: str) -> list[Item]:
    rows = learning[learning["regime"] == regime]
    rows = rows[rows["combination"] == MEAN] if (rows["combination"] == MEAN).any() else rows
    panels = []
    for step_kind in in_order(rows["step_kind"], ("round", "epoch")):
        curves = []
        for m in in_order(rows.loc[rows["step_kind"] == step_kind, "method"], view.methods):
            chosen = rows[(rows["step_kind"] == step_kind) & (rows["method"] == m)]
            seeds = [
                (steps.index.astype(float).tolist(), steps.astype(float).tolist())
                for _, group in chosen.groupby("seed")
                for steps in [group.groupby("step")["rmse"].mean()]
            ]
            curves.append(Curve(view.label(m), view.looks.get(m, Look(MUTED)), seeds))
        panels.append((step_kind, curves))
    if not panels:
        return [Text(f"Not available for regime {regime}.")]
    ends = {c.label: end for _, curves in panels for c in curves if isfinite(end := _end(c))}
    best, *others = sorted(ends, key=lambda name: ends[name]) or [""]
    lowest = f"{best} ends with the lowest validation RMSE, {number(ends.get(best), 3)} {view.unit}"
    span = f"the others between {number(ends[others[0]], 3)} and {number(ends[others[-1]], 3)}" if others else ""
    if len(others) == 1:
        span = f"{others[0]} with {number(ends[others[0]], 3)}"
    told = [Text(f"{lowest}; {span}.")] if others else []
    return [
        *told,
        Plot(
            learning_curves(panels, view.unit),
            "Validation RMSE by training step: "
            + "; ".join(f"{c.label}, {_course(c)}" for _, curves in panels for c in curves)
            + ".",
            "RMSE on validation visits, averaged over combinations: a thin line for each seed, a thick one for the "
            "mean over seeds. A federated round and a central epoch are different amounts of work, so compare end "
            "levels and shapes, not speed.",
        ),
    ]


def _end(curve: Curve) -> float:
    """The last validation RMSE, averaged over seeds."""
    last = [values[-1] for _, values in curve.seeds if len(values)]
    return float(np.mean(last)) if last else nan


def _course(curve: Curve) -> str:
    ends = [(values[0], values[-1]) for _, values in curve.seeds if len(values)]
    if not ends:
        return "no figure"
    first, last = np.mean([e[0] for e in ends]), np.mean([e[1] for e in ends])
    return f"from {number(float(first))} to {number(float(last))}"
