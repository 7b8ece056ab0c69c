"""The figure of values along an axis: a line for each method, or the points of a paired difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log10

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from permmoe_simulation.report.scales import axis_limits
from permmoe_simulation.report.style import (
    CHARACTER,
    INK,
    WIDTH,
    Look,
    add_legend,
    add_title,
    canvas,
    drawn,
    legend_height,
    marker,
    place,
    shorten,
)
from permmoe_simulation.summary import Scale

MOST_COLUMNS = 3
BODY, HEAD, FOOT, LEFT, GAP = 2.1, 0.42, 0.5, 0.76, 0.6
"""Inches: the height of a panel's axes, what is above and below them, and to the left of the first and of others."""


@dataclass(frozen=True)
class Line:
    """Values with intervals (NaN: none) along the axis, joined by a line."""

    label: str
    look: Look
    at: Sequence[float]
    values: Sequence[float]
    lower: Sequence[float]
    upper: Sequence[float]


@dataclass(frozen=True)
class LinePanel:
    """One set of axes. `looks`: one for each point of its only line, where the points differ in what they say."""

    title: str
    y_label: str
    lines: Sequence[Line]
    looks: Sequence[Look] = ()


@drawn
def line_plot(
    panels: Sequence[LinePanel],
    x_label: str,
    scale: Scale,
    *,
    legend: Sequence[tuple[str, Look]] = (),
    is_difference: bool = False,
    has_log_values: bool = False,
    columns: int = MOST_COLUMNS,
) -> Figure:
    """Panels from left to right and top to bottom; those with one y label share a scale unless it is logarithmic."""
    columns = min(columns, len(panels), MOST_COLUMNS)
    n_lines = -(-len(panels) // columns)
    top = legend_height([label for label, _ in legend]) if legend else 0.0
    figure = canvas(top + n_lines * (HEAD + BODY + FOOT))
    gap = LEFT + 0.15 if has_log_values else GAP
    width = (WIDTH - LEFT - 0.1 - gap * (columns - 1)) / columns
    limits = {label: _limits([p for p in panels if p.y_label == label], is_difference) for label in
              {p.y_label for p in panels}}  # fmt: skip
    for j, panel in enumerate(panels):
        row, column = divmod(j, columns)
        bottom = (n_lines - row - 1) * (HEAD + BODY + FOOT) + FOOT
        axes = place(figure, LEFT + column * (width + gap), bottom, width, BODY)
        _draw(axes, panel)
        room = int(width / CHARACTER)
        add_title(axes, panel.title, width, pad=6.0)
        axes.set_xlabel(shorten(x_label, room))
        _set_x(axes, sorted({x for p in panels for line in p.lines for x in line.at}), scale, width)
        if has_log_values:
            _set_log_values(axes, panel)
        else:
            axes.set_ylim(*limits[panel.y_label])
            axes.yaxis.set_major_locator(MaxNLocator(5))
        if column == 0 or panel.y_label != panels[j - 1].y_label:
            axes.set_ylabel(panel.y_label)
        if is_difference:
            axes.axhline(0, color=INK, linewidth=0.9, zorder=1.5)
    if legend:
        add_legend(figure, legend)
    return figure


def _draw(axes: Axes, panel: LinePanel) -> None:
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    for line in panel.lines:
        colour = line.look.colour
        order = np.argsort(line.at)
        at, values, lower, upper = (np.asarray(v, dtype=np.float64)[order] for v in
                                    (line.at, line.values, line.lower, line.upper))  # fmt: skip
        style = "-" if line.look.is_filled else "--"
        if panel.looks:  # single points that say different things
            axes.plot(at, values, color=colour, linewidth=1.0, linestyle=style, zorder=2)
            for x, y, low, high, k in zip(at, values, lower, upper, order, strict=True):
                axes.plot([x, x], [low, high], color=panel.looks[k].colour, linewidth=1.1, zorder=2)
                axes.plot([x], [y], zorder=3, **marker(panel.looks[k]))
            continue
        if np.isfinite(lower).all() and np.isfinite(upper).all():
            axes.fill_between(at, lower, upper, color=colour, alpha=0.13, linewidth=0, zorder=1)
        axes.plot(at, values, linewidth=1.5, linestyle=style, zorder=3, **marker(line.look, 4.6))


def _limits(panels: Sequence[LinePanel], is_difference: bool) -> tuple[float, float]:
    values = [v for p in panels for line in p.lines for part in (line.values, line.lower, line.upper) for v in part]
    return axis_limits(values, is_difference=is_difference)


def _set_x(axes: Axes, values: Sequence[float], scale: Scale, width: float) -> None:
    """A tick at every value that has room for its label."""
    if scale == "log":
        axes.set_xscale("log")
    position = [log10(v) for v in values] if scale == "log" else list(values)
    extent = (position[-1] - position[0]) or 1.0
    kept: list[int] = []
    for j, value in enumerate(values):
        space = (position[j] - position[kept[-1]]) / extent * 0.92 * width if kept else 1.0
        if space >= CHARACTER * (len(f"{value:g}") + 1):
            kept.append(j)
    axes.set_xticks([values[j] for j in kept], [f"{values[j]:g}" for j in kept])
    axes.xaxis.set_minor_locator(NullLocator())
    margin = 0.04 * extent
    ends = (position[0] - margin, position[-1] + margin)
    axes.set_xlim(*((10 ** ends[0], 10 ** ends[1]) if scale == "log" else ends))


def _set_log_values(axes: Axes, panel: LinePanel) -> None:
    """A logarithmic y axis over at least one decade, so that a constant looks like one."""
    axes.set_yscale("log")
    values = [v for line in panel.lines for v in line.values if isfinite(v) and v > 0]
    if values:
        middle, half = (log10(max(values)) + log10(min(values))) / 2, (log10(max(values)) - log10(min(values))) / 2
        reach = max(0.5, 1.15 * half)
        axes.set_ylim(10 ** (middle - reach), 10 ** (middle + reach))
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_locator(NullLocator())
