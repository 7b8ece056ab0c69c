"""The sections of a study whose regimes lie on an axis: errors along it, where lines cross, what a round costs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite, log10
from typing import Literal

import numpy as np
import pandas as pd

from permmoe_simulation.report.cells import MEAN, Difference, differences, in_order, unmirrored
from permmoe_simulation.report.content import (
    Entry,
    Fold,
    Item,
    Plot,
    Section,
    Table,
    Text,
    amount,
    count,
    digits_for,
    duration,
    interval,
    listed,
    number,
    signed,
)
from permmoe_simulation.report.differences import VERDICT_LEGEND, VERDICT_LOOKS
from permmoe_simulation.report.files import Axis
from permmoe_simulation.report.lines import Line, LinePanel, line_plot
from permmoe_simulation.report.style import MUTED, Look
from permmoe_simulation.report.view import View

Scale = Literal["linear", "log"]
PAIRS_SHOWN = 2
"""Pairs whose figure is open; those of the others are folded away."""


def axis_section(view: View) -> Section | None:
    """Nothing where the regimes do not lie on an axis."""
    axis, along = view.summary.axis, view.study.along_axis
    if axis is None or along is None or along.empty:
        return None
    combinations = in_order(along["combination"], [MEAN])
    told: list[Item] = []
    plots: list[Item] = []
    for j, pair in enumerate(_pairs(view)):
        sentences = [Text(one) for c in combinations if (one := crossing_sentence(view, axis, pair, c))]
        plot = _difference_plot(view, axis, pair, combinations)
        if plot is None:
            continue
        if j < PAIRS_SHOWN:
            told, plots = [*told, *sentences], [*plots, plot]
        else:
            plots.append(Fold(f"{view.label(pair[0])} against {view.label(pair[1])}", [*sentences, plot]))
    items: list[Item] = [*told, _error_plot(view, axis, along, combinations), *plots]
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
    at, cells = [x for x, _ in points], [d for _, d in points]
    where = crossings(at, [d.value for d in cells], axis.scale)
    clear = [(x, d) for x, d in points if d.verdict in ("better", "worse")]
    span = max(at) - min(at)
    digits = digits_for(span / 2)
    if where:
        lines = f"The lines of {a} and {b}, {_of(combination)}, cross near {listed([number(x, digits) for x in where])}"
    else:
        side = "below" if cells[0].value < 0 else "above"
        lines = f"{_of(combination).capitalize()}, the line of {a} stays {side} that of {b}"
    numbers = sorted({d.n for d in cells})
    n = f"n = {numbers[0]}" + (f" to {numbers[-1]}" if len(numbers) > 1 else "")
    if not clear:
        what = {0: "this lies", 1: "the crossing lies"}.get(len(where), "the crossings lie")
        noise = f"the interval of the paired difference includes zero at all {len(points)} points ({n})"
        lines += f", but {noise}: {what} within the noise"
    else:
        told = [f"{number(x, digits)} ({a} {d.verdict}, {signed(d.value, digits_for(d.value))})" for x, d in clear]
        lines += f"; the interval of the paired difference excludes zero at {listed(told)}, {n} a point"
    return f"{lines}. {_trend(view, axis, pair, combination)}".strip()


def _trend(view: View, axis: Axis, pair: tuple[str, str], combination: str) -> str:
    trends = view.study.trends
    if trends is None or trends.empty:
        return ""
    rows = trends[(trends["method"] == pair[0]) & (trends["reference"] == pair[1])]
    rows = rows[rows["combination"] == combination]
    if rows.empty or not isfinite(rows["slope"].iloc[0]):
        return ""
    low, high = min(axis.values.values()), max(axis.values.values())
    span = log10(high / low) if axis.scale == "log" else high - low
    change, lower, upper = (span * float(rows[c].iloc[0]) for c in ("slope", "lower", "upper"))
    digits = digits_for(change)
    is_clear = lower > 0 or upper < 0
    verdict = "a trend beyond chance" if is_clear else "no trend can be told from chance"
    line = "a straight line over its logarithm" if axis.scale == "log" else "a straight line"
    return (
        f"From {number(low, _places(low))} to {number(high, _places(high))} the difference changes by "
        f"{signed(change, digits)} {view.unit} along {line} (95% interval {interval(lower, upper, digits)}): {verdict}."
    )


def _points(view: View, axis: Axis, pair: tuple[str, str], combination: str) -> list[tuple[float, Difference]]:
    comparisons = view.study.comparisons
    if comparisons is None or comparisons.empty:
        return []
    found = []
    for regime, x in sorted(axis.values.items(), key=lambda item: item[1]):
        cell = differences(comparisons, regime, "all").get(pair, {}).get(combination)
        if cell is not None and cell.verdict != "none":
            found.append((x, cell))
    return found


def _pairs(view: View) -> list[tuple[str, str]]:
    comparisons = view.study.comparisons
    if comparisons is None or comparisons.empty:
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
        f"RMSE along {axis.name}, lower is better; bands are 95% bootstrap intervals over subjects "
        f"(n = {numbers.min()} to {numbers.max()} a point). Bands of the same subjects move together: the paired "
        "differences below decide.",
    )


def _difference_plot(view: View, axis: Axis, pair: tuple[str, str], combinations: Sequence[str]) -> Plot | None:
    a, b = map(view.label, pair)
    panels = []
    for c in combinations:
        points = _points(view, axis, pair, c)
        if points:
            cells = [d for _, d in points]
            line = Line(c, Look(MUTED), [x for x, _ in points], [d.value for d in cells], [d.lower for d in cells],
                        [d.upper for d in cells])  # fmt: skip
            looks = [VERDICT_LOOKS[d.verdict] for d in cells]
            panels.append(LinePanel(_title(c), f"difference ({view.unit})", [line], looks))
    if not panels:
        return None
    return Plot(
        line_plot(panels, axis.name, axis.scale, legend=VERDICT_LEGEND, is_difference=True),
        f"Paired difference of {a} and {b} along {axis.name}: "
        + " ".join(filter(None, (crossing_sentence(view, axis, pair, c) for c in combinations))),
        f"RMSE of {a} minus that of {b} on the same subjects, with paired 95% intervals; below zero {a} errs less.",
    )


def _error_table(view: View, axis: Axis, along: pd.DataFrame, combinations: Sequence[str]) -> Table:
    methods = in_order(along["method"], view.methods)
    rows = []
    for c in combinations:
        for regime, value in sorted(axis.values.items(), key=lambda item: item[1]):
            of = along[(along["combination"] == c) & (along["regime"] == regime)].set_index("method")
            if of.empty:
                continue
            entries = [
                Entry(number(of.loc[m, "rmse"], 3), interval(of.loc[m, "lower"], of.loc[m, "upper"]))
                if m in of.index
                else Entry("–", is_quiet=True)
                for m in methods
            ]
            name = f"{_title(c)}, {number(value, _places(value))}"
            rows.append([Entry(name), Entry(str(int(of["n"].max()))), *entries])
    return Table(
        f"RMSE in {view.unit} with 95% intervals, along {axis.name}.",
        [f"Combination, {axis.name}", "n", *map(view.label, methods)],
        rows,
    )


def _places(value: float) -> int:
    return 0 if value == int(value) else 2


Quantities = list[tuple[str, str, dict[str, dict[float, float]]]]
"""Title, unit, and by method the value at each place of the axis."""


def growth_sentences(view: View) -> list[str]:
    """How a round grows, a sentence a method; none where `growth_section` has nothing to show."""
    axis, rounds = _growing(view)
    if axis is None or rounds is None:
        return []
    quantities = _quantities(view, axis, rounds)
    methods = in_order(rounds["method"], view.methods)
    return [sentence for m in methods if (sentence := _growth_sentence(view, axis, m, quantities))]


def _growing(view: View) -> tuple[Axis | None, pd.DataFrame | None]:
    axis, rounds = view.summary.axis, view.study.rounds
    if (
        axis is None
        or rounds is None
        or rounds.empty
        or "round_seconds" not in rounds
        or min(axis.values.values()) <= 0
    ):
        return None, None
    return axis, rounds


def _quantities(view: View, axis: Axis, rounds: pd.DataFrame) -> Quantities:
    costs = view.study.costs
    methods = in_order(rounds["method"], view.methods)
    quantities = [
        ("time of a round", "seconds", _by_method(_of_a_round(rounds, "round_seconds"), axis, methods)),
        ("traffic of all sites in a round", "MB", _by_method(_of_a_round(rounds, "bytes", 1e-6), axis, methods)),
    ]
    if costs is not None and "peak_memory_mb" in costs and costs["peak_memory_mb"].notna().any():
        of = costs[costs["method"].isin(methods)].rename(columns={"peak_memory_mb": "value"})
        quantities.append(("peak memory of the process", "MB", _by_method(of, axis, methods)))
    return quantities


def growth_section(view: View) -> Section | None:
    """How a round's time, bytes and memory grow along the axis; nothing without federations or an axis above zero."""
    axis, rounds = _growing(view)
    if axis is None or rounds is None:
        return None
    quantities = _quantities(view, axis, rounds)
    methods = in_order(rounds["method"], view.methods)
    panels = []
    for title, unit, points in quantities:
        lines = []
        for m in methods:
            at, values = list(points[m]), list(points[m].values())
            nothing = [float("nan")] * len(at)
            lines.append(Line(view.label(m), view.looks[m], at, values, nothing, nothing))
        panels.append(LinePanel(title, unit, lines))
    sentences = growth_sentences(view)
    plot = Plot(
        line_plot(panels, axis.name, "log", legend=[(view.label(m), view.looks[m]) for m in methods],
                  has_log_values=True),
        " ".join(sentences),
        f"Both axes are logarithmic: a straight line is a power of {axis.name}, of which "
        "1 is growth in proportion and 0 none. Medians over rounds and seeds; bytes "
        "are those sent and received by all sites together. Here all sites share one machine and take turns, so a "
        "round lasts as long as all their trainings together; hospitals train at the same time.",
    )  # fmt: skip
    table = Table(
        f"A round by {axis.name}.",
        [axis.name, *(f"{view.label(m)}: {title}" for title, _, _ in quantities for m in methods)],
        [
            [Entry(number(x, _places(x))),
             *(Entry(_figure(points[m].get(x), unit)) for _, unit, points in quantities for m in methods)]
            for x in sorted(set(axis.values.values()))
        ],
    )  # fmt: skip
    return Section("growth", f"How a round grows with {axis.name}", [*map(Text, sentences), plot, table])


def exponent(at: Sequence[float], values: Sequence[float]) -> float:
    """The power of x that fits best: the slope of log y over log x by least squares; NaN for fewer than two points."""
    known = [(log10(x), log10(y)) for x, y in zip(at, values, strict=True) if x > 0 and isfinite(y) and y > 0]
    if len({x for x, _ in known}) < 2:
        return float("nan")
    return float(np.polyfit([x for x, _ in known], [y for _, y in known], 1)[0])


def _of_a_round(rounds: pd.DataFrame, column: str, factor: float = 1.0) -> pd.DataFrame:
    """One value for each method, regime, seed and round."""
    keys = ["method", "regime", "seed", "round"]
    if column == "bytes":
        totals = (rounds["bytes_down"] + rounds["bytes_up"]).groupby([rounds[k] for k in keys]).sum()
    else:
        totals = rounds.groupby(keys)[column].first()
    return (totals * factor).rename("value").reset_index()


def _by_method(values: pd.DataFrame, axis: Axis, methods: Sequence[str]) -> dict[str, dict[float, float]]:
    medians = values.groupby(["method", "regime"])["value"].median()
    found: dict[str, dict[float, float]] = {}
    for m in methods:
        pairs = [(x, float(medians[m, r])) for r, x in axis.values.items() if (m, r) in medians.index]
        found[m] = dict(sorted((x, v) for x, v in pairs if isfinite(v) and v > 0))
    return found


def _growth_sentence(view: View, axis: Axis, method: str, quantities: Quantities) -> str:
    parts = []
    for title, unit, points in quantities:
        of = points[method]
        if len(of) < 2:
            continue
        at, values = list(of), list(of.values())
        first, last = _figure(values[0], unit), _figure(values[-1], unit)
        power = number(exponent(at, values), 2)
        parts.append(f"the {title} goes from {first} to {last} (as {axis.name} to the power of {power})")
    if not parts:
        return ""
    low, high = min(axis.values.values()), max(axis.values.values())
    return (
        f"With {view.label(method)}, from {number(low, _places(low))} to {number(high, _places(high))} {axis.name}, "
        f"{listed(parts)}."
    )


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return duration(value) if unit == "seconds" else amount(value * 1e6)
