"""The figure of a power study: the share of cohorts in which a claim was found, against patients, by hospitals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from permmoe.evaluation.intervals import LEVEL
from permmoe_simulation.power.curves import WANTED
from permmoe_simulation.report.style import (
    COLOURS,
    MUTED,
    SHAPES,
    WIDTH,
    Look,
    add_legend,
    add_title,
    canvas,
    drawn,
    legend_height,
    marker,
    place,
)

COLUMNS = 3
BODY, HEAD, FOOT, LEFT, GAP = 1.7, 0.7, 0.5, 0.62, 0.42
"""Inches: the height of a panel's axes, the room above and below them, left of the first, and between two."""
APART = 0.012
"""By what share of the axis the lines are moved aside, so that their intervals do not hide each other."""


@dataclass(frozen=True)
class Curve:
    """The points of one number of hospitals, with the ends of their 95% intervals."""

    sites: int
    patients: Sequence[int]
    shares: Sequence[float]
    lower: Sequence[float]
    upper: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """One claim in one regime. Where nothing is to be found, the line to look at is that of the test's own level."""

    title: str
    curves: Sequence[Curve]
    is_null: bool


@drawn
def power_figure(panels: Sequence[Panel]) -> Figure:
    """Panels from left to right and top to bottom, all of one scale. Intervals are bars: a line may have one point."""
    sites = sorted({curve.sites for panel in panels for curve in panel.curves})
    looks = {n: Look(COLOURS[j % len(COLOURS)], SHAPES[j % len(SHAPES)]) for j, n in enumerate(sites)}
    legend = [(f"{n} hospital{'s' * (n != 1)}", look) for n, look in looks.items()]
    at = sorted({p for panel in panels for curve in panel.curves for p in curve.patients})
    n_rows = -(-len(panels) // COLUMNS)
    figure = canvas(legend_height([label for label, _ in legend]) + n_rows * (HEAD + BODY + FOOT))
    width = (WIDTH - LEFT - 0.12 - GAP * (COLUMNS - 1)) / COLUMNS
    for j, panel in enumerate(panels):
        row, column = divmod(j, COLUMNS)
        bottom = (n_rows - row - 1) * (HEAD + BODY + FOOT) + FOOT
        axes = place(figure, LEFT + column * (width + GAP), bottom, width, BODY)
        add_title(axes, panel.title, width, pad=6.0)
        _set_axes(axes, at)
        _draw(axes, panel, looks)
        if column == 0:
            axes.set_ylabel("cohorts")
    add_legend(figure, legend)
    return figure


def _draw(axes: Axes, panel: Panel, looks: dict[int, Look]) -> None:
    axes.axhline(LEVEL if panel.is_null else WANTED, color=MUTED, linewidth=0.9, linestyle=":", zorder=1)
    low, high = np.log(axes.get_xlim())
    for curve in panel.curves:
        look = looks[curve.sites]
        aside = np.exp((list(looks).index(curve.sites) - (len(looks) - 1) / 2) * APART * (high - low))
        x = np.asarray(curve.patients, dtype=np.float64) * aside
        axes.vlines(x, curve.lower, curve.upper, color=look.colour, linewidth=1.1, zorder=2)
        axes.plot(x, curve.shares, linewidth=1.4, zorder=3, **marker(look, 4.6))


def _set_axes(axes: Axes, at: Sequence[int]) -> None:
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_xscale("log")
    margin = (at[-1] / at[0]) ** 0.07 if len(at) > 1 else 1.5
    axes.set_xlim(at[0] / margin, at[-1] * margin)
    axes.set_xticks(at, [f"{p:,}" for p in at])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("patients")
    axes.set_ylim(-0.04, 1.04)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
