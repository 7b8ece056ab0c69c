"""The tables and the section of a study whose regimes lie on an axis: errors along it, and where lines cross."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from math import isfinite, log10, nan
from typing import Any

import numpy as np
import pandas as pd

from permmoe.evaluation.figures import contrast, difference_figure
from permmoe.evaluation.intervals import LEVEL, judged_interval, judged_p_value, mean_rmse_interval, why_not_judged
from permmoe_simulation.report.content import (
    Entry,
    Fold,
    Item,
    Plot,
    Section,
    Table,
    Text,
    count,
    digits_for,
    interval,
    listed,
    number,
    signed,
    whole_or_two,
)
from permmoe_simulation.report.differences import VERDICT_LEGEND, VERDICT_LOOKS
from permmoe_simulation.report.lines import Line, LinePanel, line_plot
from permmoe_simulation.report.lookups import MEAN, Difference, differences, in_order, unmirrored
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.style import MUTED, Look
from permmoe_simulation.report.view import View
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.studies.prediction_errors import PredictionErrors
from permmoe_simulation.studies.verdicts import NOT_JUDGED_BEFORE, corrected
from permmoe_simulation.study_tables import COMPARISONS, StudyTable, real, tested, text, whole, with_interval
from permmoe_simulation.summary import Axis, Scale

PAIRS_SHOWN = 2
"""Pairs whose figure is open; those of the others are folded away."""


ALONG_AXIS = StudyTable(
    "along_axis",
    "the RMSE of a method in the regime at a value of the axis, for a combination (or `mean`)",
    (
        *text("method", "regime"),
        *real("value", unit="the axis"),
        *text("combination"),
        *whole("n", unit="subjects"),
        *with_interval("rmse"),
    ),
)
TRENDS = StudyTable(
    "trends",
    "the slope of a pair's paired difference over the axis, or over its logarithm to base ten",
    (
        *text("method", "reference", "combination"),
        *whole("n", unit="subjects"),
        *with_interval("slope", unit="outcome for each unit or tenfold of the axis"),
        *tested(),
    ),
)


def along_axis_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of ALONG_AXIS, for the mean over combinations and for the combinations of the study's claims."""
    if done.axis is None:
        return pd.DataFrame()
    return along_axis(done.errors, done.axis, _combinations_of_claims(done))


def trend_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of TRENDS, for the mean over combinations and for the combinations of the study's claims."""
    if done.axis is None:
        return pd.DataFrame()
    return trends(done.errors, done.axis, done.config.pairs, _combinations_of_claims(done))


def along_axis(errors: PredictionErrors, axis: Axis, combinations: Sequence[str]) -> pd.DataFrame:
    """RMSE of every method by the value of its regime, for each of the combinations; one may be `mean`."""
    rows = []
    for method, regime in errors.by_method:
        for combination in combinations:
            found = mean_rmse_interval(errors.squared(method, regime, combination))
            if found.n:
                rows.append({"method": method, "regime": regime, "value": axis.values[regime],
                             "combination": combination, "n": found.n, "rmse": found.estimate,
                             "lower": found.lower, "upper": found.upper})  # fmt: skip
    return pd.DataFrame(rows)


def trends(
    errors: PredictionErrors, axis: Axis, pairs: Sequence[tuple[str, str]], combinations: Sequence[str]
) -> pd.DataFrame:
    """Slopes by least squares over the axis or its logarithm; a pair that did not finish everywhere has none.

    The tests of all pairs are corrected together, those of the mean and those of single combinations each.
    """
    at = np.array(list(axis.values.values()))
    position = np.log10(at) if axis.scale == "log" else at
    centred = position - position.mean()
    slope = centred / (centred**2).sum()
    rows: list[dict[str, Any]] = []
    for (method, reference), combination in product(pairs, combinations):
        found = []
        for regime in axis.values:
            if {(method, regime), (reference, regime)} <= errors.by_method.keys():
                own, other = (errors.squared(name, regime, combination) for name in (method, reference))
                found.append(difference_figure(own, other))
        if len(found) < len(axis.values) or not all(one.n for one in found):
            continue
        trend = contrast(found, slope.tolist())
        line = judged_interval(trend)
        rows.append({"method": method, "reference": reference, "combination": combination,
                     "n": min(one.n for one in found), "slope": line.estimate, "lower": line.lower,
                     "upper": line.upper, "seeds": line.seeds, "p_value": judged_p_value(trend)})  # fmt: skip
    if not rows:
        return pd.DataFrame()
    families = ["averages" if row["combination"] == MEAN else "combinations" for row in rows]
    return pd.DataFrame(rows).assign(p_holm=corrected([row["p_value"] for row in rows], families))


def _combinations_of_claims(done: FinishedStudy) -> list[str]:
    return list(dict.fromkeys([MEAN, *(claim.combination for claim in done.config.claims)]))


def axis_section(view: View) -> Section | None:
    """Nothing where the regimes do not lie on an axis."""
    axis, along = view.summary.axis, view.study.table(ALONG_AXIS)
    if axis is None or along is None:
        return None
    combinations = in_order(along["combination"], [MEAN])
    sentences_shown: list[Item] = []
    plots: list[Item] = []
    for j, pair in enumerate(_pairs(view)):
        sentences = [Text(one) for c in combinations if (one := crossing_sentence(view, axis, pair, c))]
        plot = _difference_plot(view, axis, pair, combinations)
        if plot is None:
            continue
        if j < PAIRS_SHOWN:
            sentences_shown, plots = [*sentences_shown, *sentences], [*plots, plot]
        else:
            plots.append(Fold(f"{view.label(pair[0])} against {view.label(pair[1])}", [*sentences, plot]))
    items: list[Item] = [*sentences_shown, _error_plot(view, axis, along, combinations), *plots]
    items.append(Fold("RMSE along the axis as numbers", [_error_table(view, axis, along, combinations)]))
    return Section("axis", f"Along the axis: {axis.name}", items)


def crossings(at: Sequence[float], differences: Sequence[float], scale: Scale) -> list[float]:
    """Where a paired difference changes its sign, interpolated; on the logarithm of a logarithmic axis."""
    found = []
    points = sorted(zip(at, differences, strict=True))
    for (x, d), (next_x, next_d) in pairwise(points):
        if d * next_d < 0:
            share = d / (d - next_d)
            if scale == "log":
                found.append(float(10 ** (log10(x) + share * (log10(next_x) - log10(x)))))
            else:
                found.append(x + share * (next_x - x))
    return found


def crossing_sentence(view: View, axis: Axis, pair: tuple[str, str], combination: str) -> str:
    """Where the lines of two methods cross, whether that is more than noise, and the trend; empty without points."""
    points = _points(view, axis, pair, combination)
    if len(points) < 2:
        return ""
    a, b = map(view.label, pair)
    at, found = [x for x, _ in points], [d for _, d in points]
    where = crossings(at, [d.value for d in found], axis.scale)
    clear = [(x, d) for x, d in points if d.verdict in ("better", "worse")]
    span = max(at) - min(at)
    digits = digits_for(span / 2)
    if where:
        lines = f"The lines of {a} and {b}, {_of(combination)}, cross near {listed([number(x, digits) for x in where])}"
    else:
        side = "below" if found[0].value < 0 else "above"
        lines = f"{_of(combination).capitalize()}, the line of {a} stays {side} that of {b}"
    numbers = sorted({d.n for d in found})
    n = f"n = {numbers[0]}" + (f" to {numbers[-1]}" if len(numbers) > 1 else "")
    what = {0: "this lies", 1: "the crossing lies"}.get(len(where), "the crossings lie")
    reasons = {d.why_unjudged for d in found}
    if "" not in reasons:
        lines += f", which is not judged ({'; '.join(sorted(reasons))})"
    elif not clear:
        noise = f"the paired difference cannot be told from chance at any of {len(points)} points ({n})"
        lines += f", but {noise}: {what} within the noise"
    else:
        phrases = [f"{number(x, digits)} ({a} {d.verdict}, {signed(d.value, digits_for(d.value))})" for x, d in clear]
        lines += f"; the paired difference is beyond chance at {listed(phrases)}, {n} a point"
    return f"{lines}. {_trend(view, axis, pair, combination)}".strip()


def _trend(view: View, axis: Axis, pair: tuple[str, str], combination: str) -> str:
    found = view.study.table(TRENDS)
    if found is None:
        return ""
    rows = found[(found["method"] == pair[0]) & (found["reference"] == pair[1])]
    rows = rows[rows["combination"] == combination]
    if rows.empty or not isfinite(rows["slope"].iloc[0]):
        return ""
    low, high = min(axis.values.values()), max(axis.values.values())
    span = log10(high / low) if axis.scale == "log" else high - low
    change, lower, upper = (span * float(rows[c].iloc[0]) for c in ("slope", "lower", "upper"))
    digits = digits_for(change)
    row = rows.iloc[0]
    p_holm = float(row.get("p_holm", nan))
    verdict = "a trend beyond chance" if p_holm < LEVEL else "no trend can be told from chance"
    between = f" (95% interval {interval(lower, upper, digits)})" if isfinite(lower) else ""
    if not isfinite(p_holm):
        why = why_not_judged(int(row["n"]), int(row["seeds"])) if "seeds" in row else NOT_JUDGED_BEFORE
        verdict = f"the trend is not judged ({why})"
    line = "a straight line over its logarithm" if axis.scale == "log" else "a straight line"
    return (
        f"From {number(low, whole_or_two(low))} to {number(high, whole_or_two(high))} the difference changes by "
        f"{signed(change, digits)} {view.unit} along {line}{between}: {verdict}."
    )


def _points(view: View, axis: Axis, pair: tuple[str, str], combination: str) -> list[tuple[float, Difference]]:
    comparisons = view.study.table(COMPARISONS)
    if comparisons is None:
        return []
    found = []
    for regime, x in sorted(axis.values.items(), key=lambda item: item[1]):
        difference = differences(comparisons, regime, "all").get(pair, {}).get(combination)
        if difference is not None and difference.verdict != "none":
            found.append((x, difference))
    return found


def _pairs(view: View) -> list[tuple[str, str]]:
    comparisons = view.study.table(COMPARISONS)
    if comparisons is None:
        return []
    return unmirrored(zip(comparisons["method"], comparisons["reference"], strict=True))


def _of(combination: str) -> str:
    return "averaged over combinations" if combination == MEAN else f"with {combination}"


def _title(combination: str) -> str:
    return "mean of all combinations" if combination == MEAN else combination


def _error_plot(view: View, axis: Axis, along: pd.DataFrame, combinations: Sequence[str]) -> Plot:
    methods = in_order(along["method"], view.methods)
    panels = []
    for c in combinations:
        lines = []
        for m in methods:
            rows = along[(along["combination"] == c) & (along["method"] == m)].sort_values("value")
            columns = (rows[name].astype(float).tolist() for name in ("value", "rmse", "lower", "upper"))
            lines.append(Line(view.label(m), view.looks[m], *columns))
        panels.append(LinePanel(_title(c), f"RMSE ({view.unit})", lines))
    legend = [(view.label(m), view.looks[m]) for m in methods]
    numbers = along["n"].astype(int)
    return Plot(
        line_plot(panels, axis.name, axis.scale, legend=legend),
        f"Lines of RMSE of {count(len(methods), 'method')} along {axis.name}; the folded table has the numbers.",
        f"RMSE along {axis.name}, lower is better, {view.intervals} "
        f"(n = {numbers.min()} to {numbers.max()} a point). Bands of the same subjects move together: the paired "
        "differences below decide.",
    )


def _difference_plot(view: View, axis: Axis, pair: tuple[str, str], combinations: Sequence[str]) -> Plot | None:
    a, b = map(view.label, pair)
    panels = []
    for c in combinations:
        points = _points(view, axis, pair, c)
        if points:
            found = [d for _, d in points]
            line = Line(c, Look(MUTED), [x for x, _ in points], [d.value for d in found], [d.lower for d in found],
                        [d.upper for d in found])  # fmt: skip
            looks = [VERDICT_LOOKS[d.verdict] for d in found]
            panels.append(LinePanel(_title(c), f"difference ({view.unit})", [line], looks))
    if not panels:
        return None
    return Plot(
        line_plot(panels, axis.name, axis.scale, legend=VERDICT_LEGEND, is_difference=True),
        f"Paired difference of {a} and {b} along {axis.name}: "
        + " ".join(filter(None, (crossing_sentence(view, axis, pair, c) for c in combinations))),
        f"RMSE of {a} minus that of {b} on the same subjects, {view.intervals}; below zero {a} errs less.",
    )


def _error_table(view: View, axis: Axis, along: pd.DataFrame, combinations: Sequence[str]) -> Table:
    methods = in_order(along["method"], view.methods)
    rows = []
    for c in combinations:
        for regime, value in sorted(axis.values.items(), key=lambda item: item[1]):
            here = along[(along["combination"] == c) & (along["regime"] == regime)].set_index("method")
            if here.empty:
                continue
            entries = [
                Entry(number(here.loc[m, "rmse"], 3), interval(here.loc[m, "lower"], here.loc[m, "upper"]))
                if m in here.index
                else Entry("–", is_quiet=True)
                for m in methods
            ]
            name = f"{_title(c)}, {number(value, whole_or_two(value))}"
            rows.append([Entry(name), Entry(str(int(here["n"].max()))), *entries])
    return Table(
        f"RMSE in {view.unit} along {axis.name}, {view.intervals}.",
        [f"Combination, {axis.name}", "n", *map(view.label, methods)],
        rows,
    )


AXIS = ReportSection(axis_section, {ALONG_AXIS: along_axis_rows, TRENDS: trend_rows})
