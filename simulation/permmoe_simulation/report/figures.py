"""The figure that most sections show: rows of combinations, methods or pairs, against panels of points with intervals.

Values go in and inline SVG comes out; nothing here knows of files or of the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from permmoe_simulation.report.scales import axis_limits
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
    add_title,
    canvas,
    drawn,
    legend_height,
    marker,
    place,
    shorten,
)

PANEL_GAP = 0.3
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
    """One set of axes; `remarks` stand in a row in place of points."""

    title: str
    x_label: str
    marks: Sequence[Mark]
    remarks: Mapping[int, str] = field(default_factory=dict)


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
    head = max(gutter_head(rows, modalities), 0.3 * has_axis_above, 0.16 * title_lines + 0.16)
    label_lines = max(len(panel.x_label.splitlines()) for panel in panels)
    foot, body = 0.4 + 0.15 * label_lines, row_height * len(rows)
    figure = canvas(top + head + body + foot)
    left = draw_gutter(figure, rows, modalities, foot, body, note_title)
    width = (WIDTH - 0.12 - left - PANEL_GAP * (len(panels) - 1)) / len(panels)
    every_mark = [mark for panel in panels for mark in panel.marks]
    for j, panel in enumerate(panels):
        axes = place(figure, left + j * (width + PANEL_GAP), foot, width, body)
        _bands(axes, rows)
        _points(axes, panel, _limits(every_mark if is_difference else panel.marks, is_difference))
        if is_difference:
            axes.axvline(0, color=INK, linewidth=0.9, zorder=1.5)
        axes.xaxis.set_major_locator(MaxNLocator(max(3, int(width / 0.6)), steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
        axes.set_xlabel(panel.x_label)
        add_title(axes, panel.title, width, pad=7.0)
        if has_axis_above:
            axes.tick_params(top=True, labeltop=True, length=2)
    if legend:
        add_legend(figure, legend)
    return figure


def gutter_head(rows: Sequence[Row], modalities: Sequence[str]) -> float:
    """Inches that the modality names need above the rows."""
    if all(row.observed is None for row in rows):
        return 0.1
    return CHARACTER * max(map(len, modalities)) * 0.75 + 0.18 if _is_slanted(modalities) else 0.28


def _column_width(modalities: Sequence[str]) -> float:
    return min(max(0.36, CHARACTER * max(map(len, modalities)) + 0.08), 2.4 / len(modalities))


def _is_slanted(modalities: Sequence[str]) -> bool:
    return CHARACTER * max(map(len, modalities)) > _column_width(modalities)


def draw_gutter(
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
        if not low <= mark.value <= high:  # a method that diverged must not flatten all others
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


def _limits(marks: Sequence[Mark], is_difference: bool) -> tuple[float, float]:
    ends = [value for mark in marks for value in (mark.value, mark.lower, mark.upper)]
    return axis_limits(ends, is_difference=is_difference)
