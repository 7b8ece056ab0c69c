"""The figure of learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from permmoe_simulation.report.scales import axis_limits
from permmoe_simulation.report.style import WIDTH, Look, add_legend, canvas, drawn, legend_height, marker, place


@dataclass(frozen=True)
class Curve:
    """One method's validation RMSE by step, a line for each seed."""

    label: str
    look: Look
    seeds: Sequence[tuple[Sequence[float], Sequence[float]]]


@drawn
def learning_curves(panels: Sequence[tuple[str, Sequence[Curve]]], unit: str) -> Figure:
    """RMSE by step: a panel for each kind of step, a thin line for each seed and a thick one for their mean."""
    entries = list({curve.label: curve.look for _, curves in panels for curve in curves}.items())
    top, foot, body = legend_height([label for label, _ in entries]) + 0.08, 0.5, 2.9
    figure = canvas(top + body + foot)
    left = 0.55
    width = (WIDTH - left - 0.1 - 0.5 * (len(panels) - 1)) / len(panels)
    low, high = axis_limits([v for _, curves in panels for c in curves for _, values in c.seeds for v in values])
    for j, (step_kind, curves) in enumerate(panels):
        axes = place(figure, left + j * (width + 0.5), foot, width, body)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        for curve in curves:
            for steps, values in curve.seeds:
                axes.plot(steps, values, color=curve.look.colour, linewidth=0.6, alpha=0.35)
            steps, means = _mean_curve(curve.seeds)
            style = marker(curve.look, 4.0) | {"markevery": max(1, len(steps) // 8)}
            axes.plot(steps, means, linewidth=1.6, linestyle="-" if curve.look.is_filled else "--", **style)
        axes.set_ylim(low, high)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.set_xlabel(step_kind)
        if j == 0:
            axes.set_ylabel(f"validation RMSE ({unit})")
    add_legend(figure, entries)
    return figure


def _mean_curve(seeds: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[list[float], list[float]]:
    """The mean over seeds at the steps that every seed has; a seed without a figure there leaves NaN."""
    by_seed = [dict(zip(steps, values, strict=True)) for steps, values in seeds]
    steps = sorted(set.intersection(*(set(curve) for curve in by_seed))) if by_seed else []
    return steps, [float(np.mean([curve[step] for curve in by_seed])) for step in steps]
