"""The two pictures of a survey's page, as inline SVG: patients by study, and how often a study of as many finds
something. Colours come from the page's style sheet by class; nothing is told by colour alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log, log10

from markupsafe import Markup, escape

from permmoe_server.feasibility.possible_studies import PossibleStudy, name_of
from permmoe_server.feasibility.power_file import WANTED, PowerCurve
from permmoe_server.status.chart import spread

WIDTH, LEFT, RIGHT = 960, 250, 110
"""Units of the view box."""
ROW, BAR = 26, 16
MOST_BARS = 16
CURVE_LEFT, CURVE_RIGHT, CURVE_HEIGHT = 48, 330, 260
LABEL, SECOND_LINE = 30.0, 14


def bars(studies: Sequence[PossibleStudy]) -> Markup:
    """A bar for each study: patients, and, filled, those with a known outcome. The studies with most come first."""
    shown = studies[:MOST_BARS]
    top, height = 26, ROW * len(shown)
    largest = max((study.patients for study in shown), default=1)
    step = _step(largest)
    end = step * ceil(largest / step)

    def x(value: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / end

    pieces = [f'<text class="axis" x="{LEFT}" y="12">patients, at least</text>']
    for value in range(0, end + 1, step):
        pieces.append(f'<path class="grid" d="M{x(value):.1f} {top}V{top + height}"/>')
        pieces.append(
            f'<text class="axis" x="{x(value):.1f}" y="{top + height + 16}" text-anchor="middle">{value:,}</text>'
        )
    for place, study in enumerate(shown):
        y = top + ROW * place + (ROW - BAR) / 2
        usable = x(study.usable) - LEFT
        pieces.append(
            f'<text x="{LEFT - 10}" y="{y + 12.5:.1f}" text-anchor="end">{escape(name_of(study.modalities))}</text>'
            f'<rect class="all" x="{LEFT}" y="{y:.1f}" width="{x(study.patients) - LEFT:.1f}" height="{BAR}"/>'
            f'<rect class="known" x="{LEFT}" y="{y:.1f}" width="{usable:.1f}" height="{BAR}"/>'
            f'<text x="{x(study.patients) + 8:.1f}" y="{y + 12.5:.1f}">{_numbers(study)}</text>'
        )
    return _svg(pieces, top + height + 24)


def _numbers(study: PossibleStudy) -> str:
    return f"{study.patients:,}" if study.known is None else f"{study.known:,} of {study.patients:,}"


def power_curves(curves: Sequence[PowerCurve], studies: Sequence[PossibleStudy]) -> Markup:
    """The share of cohorts in which each planted effect was found, against patients, and where the studies stand."""
    low = min(curve.range[0] for curve in curves)
    high = max(curve.range[1] for curve in curves)
    marked = [study for study in studies if low <= study.usable <= high][:6]
    top, right = 96 if marked else 22, WIDTH - CURVE_RIGHT

    def x(patients: int) -> float:
        return CURVE_LEFT + (right - CURVE_LEFT) * (log(patients / low) / log(high / low) if high > low else 0.5)

    def y(share: float) -> float:
        return top + CURVE_HEIGHT * (1 - share)

    pieces = [f'<text class="axis" x="0" y="{top - 10}">cohorts in which it was found</text>']
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        kind = "wanted" if share == WANTED else "grid"
        pieces.append(
            f'<path class="{kind}" d="M{CURVE_LEFT} {y(share):.1f}H{right}"/>'
            f'<text class="axis" x="{CURVE_LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>'
        )
    for patients in sorted({n for curve in curves for n, _, _ in curve.points}):
        pieces.append(
            f'<text class="axis" x="{x(patients):.1f}" y="{top + CURVE_HEIGHT + 18}" text-anchor="middle">'
            f"{patients:,}</text>"
        )
    pieces.append(f'<text class="axis" x="{right + 14}" y="{top + CURVE_HEIGHT + 18}">patients</text>')
    places = spread([x(study.usable) for study in marked], 24.0, float(CURVE_LEFT), float(right))
    for study, place in zip(marked, places, strict=True):
        at = x(study.usable)
        pieces.append(
            f'<path class="study" d="M{at:.1f} {top + CURVE_HEIGHT}V{top}L{place:.1f} {top - 22}"/>'
            f'<text class="mark" transform="translate({place + 3:.1f} {top - 24}) rotate(-32)">'
            f"{escape(name_of(study.modalities))} {study.usable:,}</text>"
        )
    # A label has a second line, which stays above the patients of the axis.
    lowest = float(top + CURVE_HEIGHT - SECOND_LINE)
    ends = spread([y(curve.points[-1][1]) for curve in curves], LABEL, float(top), lowest)
    for number, (curve, label) in enumerate(zip(curves, ends, strict=True)):
        path = "".join(f"{'L' if j else 'M'}{x(n):.1f} {y(s):.1f}" for j, (n, s, _) in enumerate(curve.points))
        dots = "".join(f'<circle cx="{x(n):.1f}" cy="{y(s):.1f}" r="3"/>' for n, s, _ in curve.points)
        at, share, _ = curve.points[-1]
        pieces.append(
            f'<g class="size{number % 4 + 1}"><path class="line" d="{path}"/>{dots}'
            f'<path class="leader" d="M{x(at) + 4:.1f} {y(share):.1f}L{right + 10} {label:.1f}"/>'
            f'<text class="end" x="{right + 14}" y="{label + 4:.1f}">{escape(curve.name)}'
            f'<tspan class="note" x="{right + 14}" dy="{SECOND_LINE}">{escape(curve.regime)}</tspan></text></g>'
        )
    return _svg(pieces, top + CURVE_HEIGHT + 28)


def _svg(pieces: Sequence[str], height: int) -> Markup:
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height}">{"".join(pieces)}</svg>')


def _step(largest: int) -> int:
    """A round distance of four to eight grid lines."""
    power = max(0, int(log10(max(largest, 1) / 4)))
    steps = [factor * int(10**place) for place in (power, power + 1) for factor in (1, 2, 5)]
    return next(step for step in steps if largest / step <= 8)
