"""A line chart as inline SVG, drawn without a plotting library: RMSE by combination over rounds.

Colours come from the page's style sheet by class, so that the chart follows its light and dark scheme. Lines of one
class also share a dash pattern, and every line is named at its end: no reading depends on colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from markupsafe import Markup, escape

WIDTH, TOP, BOTTOM, LEFT, RIGHT = 960, 26, 34, 44, 236
"""Units of the view box; the page shows it about 960 pixels wide."""
LABEL_HEIGHT = 15.5
SHORTEST = 270.0
"""The least height of the plot's area; it is higher where the labels need more room."""

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Line:
    """A named line through (round, value) points, in the order of rounds."""

    name: str
    points: Points
    style: str
    """The CSS class of the line."""
    note: str = ""
    """A text after the name at the line's end."""


def line_chart(lines: Sequence[Line], first: int, last: int, unit: str) -> Markup:
    """Return a chart over the rounds `first` to `last`. Every text is escaped; lines without a point are left out."""
    lines = [line for line in lines if line.points]
    values = [value for line in lines for _, value in line.points]
    low, high, step = _scale(min(values, default=0.0), max(values, default=1.0))
    height = max(SHORTEST, LABEL_HEIGHT * len(lines))
    right = WIDTH - RIGHT

    def x(number: int) -> float:
        return LEFT + (right - LEFT) * ((number - first) / (last - first) if last > first else 1.0)

    def y(value: float) -> float:
        return TOP + height * (high - value) / (high - low)

    pieces = [f'<text class="axis" x="0" y="12">{escape(unit)}</text>']
    for j in range(round((high - low) / step) + 1):
        value = low + j * step
        pieces.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{right}"/>')
        pieces.append(
            f'<text class="axis" x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{_tick(value, step)}</text>'
        )
    for number in _round_ticks(first, last):
        pieces.append(
            f'<text class="axis" x="{x(number):.1f}" y="{TOP + height + 20:.1f}" text-anchor="middle">{number}</text>'
        )
    pieces.append(f'<text class="axis" x="{right + 14}" y="{TOP + height + 20:.1f}">round</text>')
    ends = spread([y(line.points[-1][1]) for line in lines], LABEL_HEIGHT, float(TOP), TOP + height)
    for line, label_y in zip(lines, ends, strict=True):
        end, value = line.points[-1]
        path = "".join(f"{'L' if j else 'M'}{x(n):.1f} {y(v):.1f}" for j, (n, v) in enumerate(line.points))
        pieces.append(
            f'<g class="{escape(line.style)}"><path class="line" d="{path}"/>'
            f'<circle cx="{x(end):.1f}" cy="{y(value):.1f}" r="2.5"/>'
            f'<path class="leader" d="M{x(end) + 4:.1f} {y(value):.1f}L{right + 10} {label_y:.1f}"/>'
            f'<text class="end" x="{right + 14}" y="{label_y + 4:.1f}">{escape(line.name)} '
            f'<tspan class="note">{escape(line.note)}</tspan></text></g>'
        )
    return Markup(f'<svg viewBox="0 0 {WIDTH} {TOP + height + BOTTOM:.0f}">{"".join(pieces)}</svg>')


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions near the wanted ones, in the same order, `gap` apart and inside [low, high] where there is room.

    Neighbours that are too close form a block around the mean of what they want (pool adjacent violators), which is
    the least-squares solution.
    """
    order = sorted(range(len(wanted)), key=lambda j: wanted[j])
    blocks: list[tuple[float, int]] = []
    for rank, j in enumerate(order):
        # In coordinates from which every gap before it is taken, positions only need to ascend.
        total, count = wanted[j] - rank * gap, 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / count:
            previous_total, previous_count = blocks.pop()
            total, count = total + previous_total, count + previous_count
        blocks.append((total, count))
    ceiling = max(low, high - gap * (len(wanted) - 1))
    ascending = [min(max(total / count, low), ceiling) for total, count in blocks for _ in range(count)]
    placed = [0.0] * len(wanted)
    for rank, j in enumerate(order):
        placed[j] = ascending[rank] + rank * gap
    return placed


def line_style(combination: str) -> str:
    """Return the class of a combination's line: `size1` to `size4`, by its number of modalities."""
    return f"size{min(4, combination.count('+') + 1)}"


def _scale(smallest: float, largest: float) -> tuple[float, float, float]:
    """Return lower end, upper end and step of an axis with round numbers and four to eight steps."""
    span = largest - smallest or abs(largest) or 1.0
    power = 10.0 ** floor(log10(span / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 6)
    low, high = floor(smallest / step) * step, ceil(largest / step) * step
    return low, high if high > low else low + step, step


def _tick(value: float, step: float) -> str:
    return f"{value:.{max(0, -floor(log10(step)))}f}"


def _round_ticks(first: int, last: int) -> list[int]:
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**9) if (last - first) / s <= 12)
    inner = [n for n in range(first - first % step + step, last, step) if n - first >= step / 2 <= last - n]
    return sorted({first, *inner, last})
