"""The figures of docs/scaling.md: measured points with their spread, the fitted laws, what is projected from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from permmoe_benchmarks.pages.laws import FURTHEST, Law
from permmoe_benchmarks.pages.series import Result, Series, law_of, series
from permmoe_simulation.report.style import (
    COLOURS,
    INK,
    MARK,
    WIDTH,
    Look,
    add_legend,
    canvas,
    drawn,
    legend_height,
    marker,
    place,
    standalone,
)

COLUMNS = 3
BODY, HEAD, FOOT, LEFT, GAP = 2.0, 0.36, 0.52, 0.72, 0.78
"""Inches: the height of a panel's axes, the room above and below them, left of the first, and between two."""
PROJECTED = Look(INK, "*", False)


@dataclass(frozen=True)
class DrawnCurve:
    """One figure along a curve of the JSON, and how it looks."""

    name: str
    figure: str
    label: str
    look: Look


@dataclass(frozen=True)
class Panel:
    """A set of axes. Values are multiplied by `factor`; laws are drawn to `until`, or if it is 0 to the last point."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[DrawnCurve]
    factor: float = 1.0
    until: float = 0.0
    is_log: bool = True


def scaling_figures(result: Result, ends: tuple[float, float]) -> dict[str, str]:
    """SVG documents by name, one for each group of curves that the result has.

    `ends` are the numbers of hospitals and of patients that laws are drawn to.
    """
    found = {}
    for name, panels in _panels(*ends).items():
        kept = [(p, [c for c in p.curves if c.name in result["curves"]]) for p in panels]
        kept = [(p, curves) for p, curves in kept if curves]
        if kept:
            note = _note(result)
            found[name] = standalone(_figure([(p, _lines(result, c)) for p, c in kept], note))
    return found


def _panels(hospitals: float, patients: float) -> dict[str, list[Panel]]:
    pooled, sfcn = Look(COLOURS[0], "o"), Look(COLOURS[1], "s")
    plain, secure, site, link = (Look(COLOURS[i], shape) for i, shape in ((0, "o"), (1, "s"), (3, "^"), (2, "D")))
    silent = Look(COLOURS[4], "v")
    private, epoch, workers = Look(COLOURS[4], "v"), Look(COLOURS[5], "P"), Look(COLOURS[6], "X")

    def steps(axis: str, figure: str) -> list[DrawnCurve]:
        looks = (("pooled", "pooled encoder (default)", pooled), ("sfcn", "SFCN encoder (convolutional)", sfcn))
        return [DrawnCurve(f"step-{axis}-{kind}", figure, label, look) for kind, label, look in looks]

    axes = (("batch", "visits a step"), ("edge", "grid edge, voxels"), ("modalities", "modalities"))
    by_plain, by_secure, by_silent = "plain averaging, server", "secure sum, server", "the same, a tenth silent"
    by_site, by_link = "secure sum, one site", "SuperLink, whole round"
    return {
        "step": [
            *(Panel(f"step time against {x}", x, "ms a step", steps(axis, "seconds"), 1e3) for axis, x in axes),
            *(Panel(f"memory against {x}", x, "MB above idle", steps(axis, "memory_mb")) for axis, x in axes),
        ],
        "round": [
            Panel(
                "seconds a round", "hospitals", "seconds",
                [
                    DrawnCurve("round-plain", "server_seconds", by_plain, plain),
                    DrawnCurve("round-secure", "server_seconds", by_secure, secure),
                    DrawnCurve("round-secure-silent", "server_seconds", by_silent, silent),
                    DrawnCurve("round-secure", "site_seconds", by_site, site),
                    DrawnCurve("round-superlink", "round_seconds", by_link, link),
                ], 1.0, hospitals,
            ),
            Panel(
                "bytes down and up, all hospitals", "hospitals", "MB a round",
                [
                    DrawnCurve("round-plain", "bytes", by_plain, plain),
                    DrawnCurve("round-secure", "bytes", by_secure, secure),
                ], 1e-6, hospitals,
            ),
            Panel(
                "memory of the server", "hospitals", "MB",
                [
                    DrawnCurve("round-plain", "server_memory_mb", by_plain, plain),
                    DrawnCurve("round-superlink", "server_memory_mb", by_link, link),
                ], 1.0, hospitals,
            ),
        ],
        "study": [
            Panel(
                "an epoch on one core", "patients", "seconds",
                [DrawnCurve("epoch-patients", "seconds", "epoch, default study's model", epoch)], 1.0, patients,
            ),
            Panel(
                "private step over plain step", "patients a step", "ratio",
                [DrawnCurve("private-batch", "ratio", "differential privacy over plain", private)], 1.0, 0.0, False,
            ),
            Panel(
                "cells of a study a minute", "workers", "cells a minute",
                [DrawnCurve("study-workers", "cells_a_minute", "study, federated cells", workers)], 1.0, 0.0, False,
            ),
        ],
    }  # fmt: skip


@dataclass(frozen=True)
class _Line:
    """A curve with its points, and their law where they support one."""

    curve: DrawnCurve
    points: Series
    law: Law | None


def _lines(result: Result, curves: Sequence[DrawnCurve]) -> list[_Line]:
    found = []
    for curve in curves:
        points = series(result["curves"][curve.name], curve.figure)
        found.append(_Line(curve, points, law_of(points)))
    return found


@drawn
def _figure(panels: Sequence[tuple[Panel, Sequence[_Line]]], note: str) -> Figure:
    columns = min(COLUMNS, len(panels))
    n_rows = -(-len(panels) // columns)
    legend = list({line.curve.label: line.curve.look for _, lines in panels for line in lines}.items())
    if any(panel.until for panel, _ in panels):
        legend.append(("projected, 95% interval", PROJECTED))
    top = legend_height([label for label, _ in legend]) + 0.06
    bottom_note = 0.2 if note else 0.0
    figure = canvas(top + n_rows * (HEAD + BODY + FOOT) + bottom_note)
    width = (WIDTH - LEFT - 0.12 - GAP * (columns - 1)) / columns
    for j, (panel, lines) in enumerate(panels):
        row, column = divmod(j, columns)
        bottom = bottom_note + (n_rows - row - 1) * (HEAD + BODY + FOOT) + FOOT
        axes = place(figure, LEFT + column * (width + GAP), bottom, width, BODY)
        _draw(axes, panel, lines)
    add_legend(figure, legend)
    if note:
        figure.text(0.995, 0.04 / figure.get_size_inches()[1], note, ha="right", va="bottom", color=MARK)
    return figure


def _draw(axes: Axes, panel: Panel, lines: Sequence[_Line]) -> None:
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_title(panel.title, loc="left", pad=6)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    seen: list[float] = []
    for line in lines:
        points, look = line.points, line.curve.look
        x = np.asarray(points.x)
        middle, least, most = (panel.factor * np.asarray(v) for v in (points.median, points.least, points.most))
        axes.vlines(x, least, most, color=look.colour, linewidth=1.1, zorder=2)
        joined = "-" if line.law is None or not panel.is_log else "none"
        axes.plot(x, middle, linestyle=joined, linewidth=1.2, zorder=3, **marker(look, 4.6))
        seen += [*least.tolist(), *most.tolist()]
        if line.law is not None and panel.is_log:
            seen += _draw_law(axes, panel, line, max(panel.until, float(x.max())))
    at = sorted({float(x) for line in lines for x in line.points.x})
    if panel.is_log:
        _set_log(axes, at, panel.until, [y for y in seen if y > 0])
    else:
        axes.set_ylim(0, 1.15 * max(seen))
        axes.set_xticks(at, [f"{x:g}" for x in at])
        axes.set_xlim(at[0] - 0.1 * (at[-1] - at[0] or 1), at[-1] + 0.1 * (at[-1] - at[0] or 1))
        axes.yaxis.set_major_locator(MaxNLocator(5))


def _draw_law(axes: Axes, panel: Panel, line: _Line, until: float) -> list[float]:
    """Draw the law over the points, dashed beyond them, with a star and its interval at the end; return the values."""
    law, look = line.law, line.curve.look
    assert law is not None
    first, last = min(line.points.x), max(line.points.x)
    until = min(until, FURTHEST * last)
    drawn_at: list[float] = []
    for begin, end, style in ((first, last, "-"), (last, until, "--")):
        if end <= begin:
            continue
        x = np.geomspace(begin, end, 60)
        values = [panel.factor * law.at(float(place)).y for place in x]
        axes.plot(x, values, color=look.colour, linewidth=1.1, linestyle=style, zorder=1.8)
        drawn_at += [min(values), max(values)]
    if until > last:
        end_point = law.at(until)
        lower, upper = panel.factor * end_point.lower, panel.factor * end_point.upper
        # An interval that spans decades must not flatten the rest.
        y = panel.factor * end_point.y
        lower, upper = max(lower, y / 10), min(upper, y * 10)
        axes.vlines([until], lower, upper, color=look.colour, linewidth=1.1, zorder=2)
        axes.plot([until], [y], zorder=4, **marker(Look(look.colour, "*", False), 8.0))
        drawn_at += [lower, upper]
    return drawn_at


def _set_log(axes: Axes, at: Sequence[float], until: float, values: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends = (at[0], max(at[-1], until))
    ticks = sorted({*at, *([until] if until else [])})
    room = (np.log(ends[1] / ends[0]) or 1.0) / 7
    kept: list[float] = []
    for x in reversed(ticks):
        if not kept or np.log(kept[-1] / x) >= room:
            kept.append(x)
    axes.set_xticks(kept, [_short(x) for x in kept])
    axes.xaxis.set_minor_locator(NullLocator())
    margin = (ends[1] / ends[0]) ** 0.06
    axes.set_xlim(ends[0] / margin, ends[1] * margin)
    low, high = np.log10(min(values)), np.log10(max(values))
    # A decade at least, so that a constant looks like one.
    reach = max(0.5, 0.56 * (high - low))
    axes.set_ylim(10 ** ((low + high) / 2 - reach), 10 ** ((low + high) / 2 + reach))
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0) if high - low < 1.6 else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_locator(NullLocator())


def _short(value: float) -> str:
    """A tick's label: 1000 as 1,000, a million and more as a multiple of a million."""
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def _note(result: Result) -> str:
    if result["scale"] == "tiny":
        return "a check that everything runs: no measurement"
    return "measured on a machine that was not idle" if result["machine"]["load_at_start"] > 0.5 else ""
