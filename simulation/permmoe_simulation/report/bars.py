"""The figure of bars by site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from permmoe_simulation.report.style import CHARACTER, WIDTH, canvas, drawn, place, shorten


@dataclass(frozen=True)
class Bars:
    """One panel of bars by site; parts (name, colour, a value for each site) are stacked from the left."""

    label: str
    parts: Sequence[tuple[str, str, Sequence[float]]]
    reach: float = 0.0
    """The axis extends at least this far, so that panels of one unit can share a scale."""


@drawn
def site_bars(sites: Sequence[str], panels: Sequence[Bars]) -> Figure:
    """Horizontal bars, a row for each site and a panel for each quantity."""
    body, foot = 0.24 * len(sites), 0.48
    longest = max((len(shorten(site, 24)) for site in sites), default=1)
    left, top = CHARACTER * longest + 0.2, 0.32
    figure = canvas(top + body + foot)
    width = (WIDTH - left - 0.15 - 0.3 * (len(panels) - 1)) / len(panels)
    for j, panel in enumerate(panels):
        axes = place(figure, left + j * (width + 0.3), foot, width, body)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        start = np.zeros(len(sites))
        for name, colour, values in panel.parts:
            heights = np.nan_to_num(np.asarray(values, dtype=np.float64))
            axes.barh(range(len(sites)), heights, left=start, height=0.62, color=colour, label=name)
            start = start + heights
        axes.set_ylim(len(sites) - 0.5, -0.5)
        axes.set_xlim(0, max(1.06 * max(panel.reach, float(start.max(initial=0))), 1e-9))
        axes.spines["left"].set_visible(False)
        axes.set_yticks(range(len(sites)), [shorten(site, 24) for site in sites] if j == 0 else [""] * len(sites))
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(panel.label)
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=len(panel.parts), borderaxespad=0.2, borderpad=0,
            handlelength=0.9, handleheight=0.9, columnspacing=1.2,
        )  # fmt: skip
    return figure
