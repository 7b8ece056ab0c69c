"""The report's figures: values in, inline SVG out. Nothing here knows of files or of the page.

Most of them are one figure, `row_plot`: rows on the left (a combination of modalities, a method, a pair of methods),
and one or more panels of points with intervals beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from permmoe_simulation.report.style import (
    BAND,
    CHARACTER,
    INK,
    MUTED,
    RULE,
    TEXT_SIZE,
    WIDTH,
    Look,
    add_legend,
    canvas,
    drawn,
    legend_height,
    marker,
    place,
    shorten,
)

SHARE_COLOURS = LinearSegmentedColormap.from_list("share", ["#f4f7fa", "#9cc3dd", "#2f7fb3", "#0b3c5d"])
GAP = 0.3
NUMBERS = 0.62
"""Inches of the column that holds n."""


@dataclass(frozen=True)
class Row:
    """One row's left-hand side: a combination shown as dots, or a text where `observed` is None."""

    label: str
    observed: frozenset[str] | None = None
    note: str = ""
    starts_group: bool = False


@dataclass(frozen=True)
class Mark:
    """A point with its interval (NaN: none), `offset` rows below the row's centre."""

    row: int
    value: float
    look: Look
    lower: float = float("nan")
    upper: float = float("nan")
    offset: float = 0.0
    is_faint: bool = False


@dataclass(frozen=True)
class Panel:
    """One set of axes; `remarks` are said in a row in place of points."""

    title: str
    x_label: str
    marks: Sequence[Mark]
    remarks: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """One method's validation RMSE by step, a line for each seed."""

    label: str
    look: Look
    seeds: Sequence[tuple[Sequence[float], Sequence[float]]]


@dataclass(frozen=True)
class Bars:
    """One panel of bars by site; parts (name, colour, a value for each site) are stacked from the left."""

    label: str
    parts: Sequence[tuple[str, str, Sequence[float]]]
    reach: float = 0.0
    """The axis extends at least this far, so that panels of one unit can share a scale."""


@drawn
def row_plot(
    rows: Sequence[Row],
    panels: Sequence[Panel],
    modalities: Sequence[str],
    *,
    note_title: str = "",
    row_height: float = 0.27,
    legend: Sequence[tuple[str, Look]] = (),
    is_difference: bool = False,
) -> Figure:
    """Rows against panels. A difference has its zero line in the middle and one scale for all panels."""
    title_lines = max(len(panel.title.splitlines()) for panel in panels)
    has_axis_above = title_lines == 0 and row_height * len(rows) > 4
    top = legend_height([label for label, _ in legend]) if legend else 0.0
    head = max(_gutter_head(rows, modalities), 0.3 * has_axis_above, 0.16 * title_lines + 0.16)
    label_lines = max(len(panel.x_label.splitlines()) for panel in panels)
    foot, body = 0.4 + 0.15 * label_lines, row_height * len(rows)
    figure = canvas(top + head + body + foot)
    left = _gutter(figure, rows, modalities, foot, body, note_title)
    width = (WIDTH - 0.12 - left - GAP * (len(panels) - 1)) / len(panels)
    shared = _difference_limits([mark for panel in panels for mark in panel.marks]) if is_difference else None
    for j, panel in enumerate(panels):
        axes = place(figure, left + j * (width + GAP), foot, width, body)
        _bands(axes, rows)
        _points(axes, panel, shared or _value_limits(panel.marks))
        if is_difference:
            axes.axvline(0, color=INK, linewidth=0.9, zorder=1.5)
        axes.xaxis.set_major_locator(MaxNLocator(max(3, int(width / 0.6)), steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
        axes.set_xlabel(panel.x_label)
        room = int(width / CHARACTER)
        axes.set_title("\n".join(shorten(line, room) for line in panel.title.splitlines()), loc="left", pad=7)
        if has_axis_above:
            axes.tick_params(top=True, labeltop=True, length=2)
    if legend:
        add_legend(figure, legend)
    return figure


@drawn
def learning_curves(panels: Sequence[tuple[str, Sequence[Curve]]], unit: str) -> Figure:
    """RMSE by step: a panel for each kind of step, a thin line for each seed and a thick one for their mean."""
    entries = list({curve.label: curve.look for _, curves in panels for curve in curves}.items())
    top, foot, body = legend_height([label for label, _ in entries]) + 0.08, 0.5, 2.9
    figure = canvas(top + body + foot)
    left = 0.55
    width = (WIDTH - left - 0.1 - 0.5 * (len(panels) - 1)) / len(panels)
    low, high = robust_range([v for _, curves in panels for c in curves for _, values in c.seeds for v in values])
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
    head = max(0.3, _gutter_head(rows, modalities))
    figure = canvas(foot + lines * body + (lines - 1) * gap + head)
    peak = max((float(np.nanmax(s)) for s in shares.values() if np.isfinite(s).any()), default=1.0) or 1.0
    image = None
    for line in range(lines):
        bottom = foot + (lines - 1 - line) * (body + gap)
        left = _gutter(figure, rows, modalities, bottom, body, "", is_labelled=line == 0)
        width = (WIDTH - 0.1 - left - GAP * (per_line - 1)) / per_line
        for j, modality in enumerate(modalities[line * per_line : (line + 1) * per_line]):
            axes = place(figure, left + j * (width + GAP), bottom, width, body)
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


def _gutter_head(rows: Sequence[Row], modalities: Sequence[str]) -> float:
    """Inches that the modality names need above the rows."""
    if all(row.observed is None for row in rows):
        return 0.1
    return CHARACTER * max(map(len, modalities)) * 0.75 + 0.18 if _is_slanted(modalities) else 0.28


def _column_width(modalities: Sequence[str]) -> float:
    return min(max(0.36, CHARACTER * max(map(len, modalities)) + 0.08), 2.4 / len(modalities))


def _is_slanted(modalities: Sequence[str]) -> bool:
    return CHARACTER * max(map(len, modalities)) > _column_width(modalities)


def _gutter(
    figure: Figure,
    rows: Sequence[Row],
    modalities: Sequence[str],
    bottom: float,
    height: float,
    note_title: str,
    *,
    is_labelled: bool = True,
) -> float:
    """Draw the rows' left-hand side and return where the panels may begin, in inches."""
    has_dots = any(row.observed is not None for row in rows)
    texts = [len(row.label) for row in rows if row.observed is None]
    column = _column_width(modalities)
    width = max(column * len(modalities) if has_dots else 0.0, min(3.4, CHARACTER * max(texts, default=0) + 0.1))
    axes = place(figure, 0.0, bottom, width, height)
    _bands(axes, rows)
    axes.set_xlim(0, width)
    axes.set_axis_off()
    centres = {name: (j + 0.5) * column for j, name in enumerate(modalities)}
    for y, row in enumerate(rows):
        if row.observed is None:
            label = shorten(row.label, int(width / CHARACTER))
            axes.text(0.04, y, label, va="center", weight="bold" if has_dots else "normal")
            continue
        present = [centres[name] for name in modalities if name in row.observed]
        absent = [centres[name] for name in modalities if name not in row.observed]
        axes.plot(absent, [y] * len(absent), "o", color="#dde1e6", markersize=4.2)
        axes.plot(present, [y] * len(present), "-o", color=INK, markersize=5.2, linewidth=1.4)
    if has_dots and is_labelled:
        for name, x in centres.items():
            slant: dict[str, Any] = (
                {"rotation": 40, "ha": "left"} if _is_slanted(modalities) else {"rotation": 0, "ha": "center"}
            )
            axes.annotate(name, (x, -0.5), (0, 6), textcoords="offset points", color=MUTED, va="bottom", **slant)
    if not note_title:
        return width + 0.14
    notes = place(figure, width, bottom, NUMBERS, height)
    _bands(notes, rows)
    notes.set_xlim(0, 1)
    notes.set_axis_off()
    for y, row in enumerate(rows):
        notes.text(0.82, y, row.note, ha="right", va="center", color=MUTED)
    notes.annotate(note_title, (0.82, -0.5), (0, 6), textcoords="offset points", color=MUTED, ha="right", va="bottom")
    return width + NUMBERS + 0.06


def _bands(axes: Axes, rows: Sequence[Row]) -> None:
    """Every other row shaded across all parts of the figure, a rule where a group of rows begins."""
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for y, row in enumerate(rows):
        if y % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, color=BAND, linewidth=0, zorder=0)
        if row.starts_group and y:
            axes.axhline(y - 0.5, color=RULE, linewidth=0.8, zorder=0.5)


def _points(axes: Axes, panel: Panel, limits: tuple[float, float]) -> None:
    low, high = limits
    axes.set_xlim(low, high)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="x", length=2)
    axes.grid(axis="x", zorder=0)
    axes.set_axisbelow(True)
    for mark in panel.marks:
        if not isfinite(mark.value):
            continue
        y = mark.row + mark.offset
        if not low <= mark.value <= high:  # one that diverged must not flatten all others
            is_high = mark.value > high
            text = f"{mark.value:.3g} ▸" if is_high else f"◂ {mark.value:.3g}"
            side = "right" if is_high else "left"
            axes.text(high if is_high else low, y, text, ha=side, va="center", color=mark.look.colour, size=7)
            continue
        if isfinite(mark.lower) and isfinite(mark.upper):
            axes.plot([mark.lower, mark.upper], [y, y], color=mark.look.colour, linewidth=1.1, zorder=2)
        if mark.is_faint:
            axes.plot([mark.value], [y], "o", color=mark.look.colour, markersize=2.6, alpha=0.4,
                      markeredgewidth=0, zorder=2)  # fmt: skip
        else:
            axes.plot([mark.value], [y], zorder=3, **marker(mark.look))
    for row, remark in panel.remarks.items():
        axes.annotate(remark, (0, row), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                      va="center", color=MUTED, style="italic", size=TEXT_SIZE - 0.5)  # fmt: skip


def _value_limits(marks: Sequence[Mark]) -> tuple[float, float]:
    return robust_range([v for mark in marks for v in (mark.value, mark.lower, mark.upper)])


def _difference_limits(marks: Sequence[Mark]) -> tuple[float, float]:
    """Symmetric about zero, so that the two sides compare by eye."""
    low, high = robust_range([v for mark in marks for v in (mark.value, mark.lower, mark.upper)] + [0.0])
    reach = max(abs(low), abs(high))
    return -reach, reach


def robust_range(values: Sequence[float]) -> tuple[float, float]:
    """The values' range with a margin; far outliers (beyond five times the middle 80% from the median) left out."""
    finite = np.asarray([v for v in values if isfinite(v)], dtype=np.float64)
    if finite.size == 0:
        return 0.0, 1.0
    low_bulk, middle, high_bulk = np.quantile(finite, (0.1, 0.5, 0.9))
    reach = 5 * (high_bulk - low_bulk)
    kept = finite[np.abs(finite - middle) <= reach] if reach > 0 else finite
    low, high = float(kept.min()), float(kept.max())
    margin = 0.04 * (high - low) or max(0.1, 0.1 * abs(high))
    return low - margin, high + margin


def _mean_curve(seeds: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[list[float], list[float]]:
    """The mean over seeds at the steps that every seed has; a seed without a figure there leaves NaN."""
    by_seed = [dict(zip(steps, values, strict=True)) for steps, values in seeds]
    steps = sorted(set.intersection(*(set(curve) for curve in by_seed))) if by_seed else []
    return steps, [float(np.mean([curve[step] for curve in by_seed])) for step in steps]
