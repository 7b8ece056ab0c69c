"""The figure of expert activation: for each modality, rows of combinations against columns of experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from permmoe_simulation.report.figures import PANEL_GAP, Row, draw_gutter, gutter_head
from permmoe_simulation.report.style import CHARACTER, MUTED, WIDTH, canvas, drawn, place, shorten

SHARE_COLOURS = LinearSegmentedColormap.from_list("share", ["#f4f7fa", "#9cc3dd", "#2f7fb3", "#0b3c5d"])


@drawn
def activation_map(
    rows: Sequence[Row],
    modalities: Sequence[str],
    shares: Mapping[str, Float[np.ndarray, "row expert"]],
    experts: Sequence[str],
) -> Figure:
    """A panel for each modality: rows by experts, the darker the larger the share of that modality's tokens."""
    per_line = min(len(modalities), 5)
    lines = -(-len(modalities) // per_line)
    body, gap, foot = 0.2 * len(rows), 0.72, 0.98
    head = max(0.3, gutter_head(rows, modalities))
    figure = canvas(foot + lines * body + (lines - 1) * gap + head)
    peak = max((float(np.nanmax(s)) for s in shares.values() if np.isfinite(s).any()), default=1.0) or 1.0
    image = None
    for line in range(lines):
        bottom = foot + (lines - 1 - line) * (body + gap)
        left = draw_gutter(figure, rows, modalities, bottom, body, "", is_labelled=line == 0)
        width = (WIDTH - 0.1 - left - PANEL_GAP * (per_line - 1)) / per_line
        for j, modality in enumerate(modalities[line * per_line : (line + 1) * per_line]):
            axes = place(figure, left + j * (width + PANEL_GAP), bottom, width, body)
            image = axes.imshow(
                shares[modality], cmap=SHARE_COLOURS, vmin=0, vmax=peak, aspect="auto", interpolation="none"
            )
            axes.set_title(shorten(modality, int(width / CHARACTER)), loc="left", pad=6)
            step = -(-len(experts) // max(1, int(width / 0.28)))
            axes.set_xticks(range(0, len(experts), step), list(experts)[::step])
            axes.set_yticks([])
            axes.tick_params(length=0)
            for row, entry in enumerate(rows):
                if entry.starts_group and row:
                    axes.axhline(row - 0.5, color="white", linewidth=2)
            if line == lines - 1:
                axes.set_xlabel("expert")
    assert image is not None  # a study has at least one modality
    bar = figure.colorbar(image, cax=place(figure, WIDTH - 2.3, 0.36, 2.2, 0.1), orientation="horizontal")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    bar.ax.xaxis.set_major_locator(MaxNLocator(4))
    figure.text((WIDTH - 2.4) / WIDTH, 0.41 / figure.get_size_inches()[1], "share of the modality's tokens",
                ha="right", va="center", color=MUTED)  # fmt: skip
    return figure
