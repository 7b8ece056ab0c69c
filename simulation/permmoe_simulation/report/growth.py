"""How a round's time, traffic and memory grow along the axis that a study's regimes lie on."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, log10

import numpy as np
import pandas as pd

from permmoe_simulation.report.content import (
    Entry,
    Plot,
    Section,
    Table,
    Text,
    amount,
    duration,
    listed,
    number,
    whole_or_two,
)
from permmoe_simulation.report.lines import Line, LinePanel, line_plot
from permmoe_simulation.report.lookups import in_order
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.study_tables import CELL, ROUNDS, StudyTable, real
from permmoe_simulation.summary import Axis

COSTS = StudyTable(
    "costs",
    "how long a cell ran, and the peak memory of its process",
    (*CELL, *real("seconds", unit="s"), *real("peak_memory_mb", unit="MB", may_be_absent=True)),
)


def cost_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of COSTS; a cell of an earlier version has no peak memory."""
    names = ("seconds", "peak_memory_mb")
    cards = [(cell, cell.card()) for cell in done.cells]
    return pd.DataFrame([{**cell.key, **{name: card[name] for name in names if name in card}} for cell, card in cards])


Quantities = list[tuple[str, str, dict[str, dict[float, float]]]]
"""Title, unit, and by method the value at each place of the axis."""


def growth_sentences(view: View) -> list[str]:
    """How a round grows, one sentence for each method; none where `growth_section` has nothing to show."""
    axis, rounds = _growing(view)
    if axis is None or rounds is None:
        return []
    quantities = _quantities(view, axis, rounds)
    methods = in_order(rounds["method"], view.methods)
    return [sentence for m in methods if (sentence := _growth_sentence(view, axis, m, quantities))]


def _growing(view: View) -> tuple[Axis | None, pd.DataFrame | None]:
    """The axis and the rounds; None for both where the study has no federations, or no axis above zero."""
    axis, rounds = view.summary.axis, view.study.table(ROUNDS)
    if axis is None or rounds is None or "round_seconds" not in rounds or min(axis.values.values()) <= 0:
        return None, None
    return axis, rounds


def _quantities(view: View, axis: Axis, rounds: pd.DataFrame) -> Quantities:
    costs = view.study.table(COSTS)
    methods = in_order(rounds["method"], view.methods)
    quantities = [
        ("time of a round", "seconds", _by_method(_round_values(rounds, "round_seconds"), axis, methods)),
        ("traffic of all sites in a round", "MB", _by_method(_round_values(rounds, "bytes", 1e-6), axis, methods)),
    ]
    if costs is not None and "peak_memory_mb" in costs and costs["peak_memory_mb"].notna().any():
        peaks = costs[costs["method"].isin(methods)].rename(columns={"peak_memory_mb": "value"})
        quantities.append(("peak memory of the process", "MB", _by_method(peaks, axis, methods)))
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
        f"Both axes are logarithmic: a straight line is a power of {axis.name}; "
        "the power 1 is growth in proportion and 0 is none. Medians over rounds and seeds; bytes "
        "are those sent and received by all sites together. Here all sites share one machine and take turns, so a "
        "round lasts as long as all their trainings together; hospitals train at the same time.",
    )  # fmt: skip
    table = Table(
        f"A round by {axis.name}.",
        [axis.name, *(f"{view.label(m)}: {title}" for title, _, _ in quantities for m in methods)],
        [
            [Entry(number(x, whole_or_two(x))),
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


def _round_values(rounds: pd.DataFrame, column: str, factor: float = 1.0) -> pd.DataFrame:
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
        if len(points[method]) < 2:
            continue
        at, values = list(points[method]), list(points[method].values())
        first, last = _figure(values[0], unit), _figure(values[-1], unit)
        power = number(exponent(at, values), 2)
        parts.append(f"the {title} goes from {first} to {last} (as {axis.name} to the power of {power})")
    if not parts:
        return ""
    low, high = min(axis.values.values()), max(axis.values.values())
    return (
        f"With {view.label(method)}, from {number(low, whole_or_two(low))} to {number(high, whole_or_two(high))} "
        f"{axis.name}, {listed(parts)}."
    )


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return duration(value) if unit == "seconds" else amount(value * 1e6)


GROWTH = ReportSection(growth_section, {COSTS: cost_rows})
