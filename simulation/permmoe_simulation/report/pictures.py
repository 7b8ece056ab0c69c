"""The figure of example images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from permmoe_simulation.report.style import MUTED, WIDTH, canvas, drawn, place, shorten


@drawn
def slice_gallery(
    modalities: Sequence[str], slices: Mapping[str, Float[np.ndarray, "first second"]], views: Sequence[str]
) -> Figure:
    """One column for each modality and one line for each view; each picture on its own grey scale (centiles 1-99)."""
    per_line = min(4, max(2, len(modalities)))
    size = min(2.1, (WIDTH - 0.1 * (per_line - 1)) / per_line)
    blocks = -(-len(modalities) // per_line)
    block_height, foot = size * len(views) + 0.32, 0.12
    figure = canvas(blocks * block_height + foot)
    for j, modality in enumerate(modalities):
        block, column = divmod(j, per_line)
        for k, view in enumerate(views):
            bottom = foot + (blocks - block) * block_height - 0.28 - (k + 1) * size
            axes = place(figure, column * (size + 0.1), bottom, size, size - 0.06)
            axes.set_anchor("NW")
            axes.set_axis_off()
            axes.set_facecolor("black")
            picture = slices.get(f"{modality}_{view}")
            if picture is None or not np.isfinite(picture).any():
                axes.text(0.5, 0.5, "not available", ha="center", color=MUTED, transform=axes.transAxes)
            else:
                low, high = np.nanpercentile(picture, (1, 99))
                axes.imshow(
                    picture.T,
                    cmap="gray",
                    origin="lower",
                    vmin=low,
                    vmax=max(high, low + 1e-6),
                    interpolation="bicubic",
                )
            if k == 0:
                axes.set_title(shorten(modality, 24), loc="left", pad=5)
    return figure
