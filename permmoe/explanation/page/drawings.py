"""Where the lines of the page's drawings go: numbers in, coordinates out; the template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from permmoe.data.outcomes import Outcomes
from permmoe.predict import Prediction

WIDTH, HISTOGRAM_HEIGHT = 680.0, 54.0
MARGIN = 16.0
BAR_WIDTH = 300.0
SHORTEST = 1e-6
"""Points of the score that an axis spans at least: what differs by less is one point."""


@dataclass(frozen=True)
class Bar:
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Axis:
    """The prediction on an axis, with its intervals and what the training's patients did."""

    ticks: tuple[tuple[float, str], ...]
    histogram: tuple[Bar, ...]
    intervals: tuple[Bar, ...]
    """Widest first, to be drawn over each other."""
    zero: float
    prediction: float


@dataclass(frozen=True)
class Step:
    """One line of a sum: from where to where its bar goes."""

    name: str
    value: float
    x: float
    width: float
    is_end: bool
    """Whether it is where the sum begins or ends, and no addition."""


def axis(prediction: Prediction, outcomes: Outcomes | None) -> Axis | None:
    """The axis; None where there is nothing but the prediction to show on it."""
    if outcomes is None and not prediction.intervals:
        return None
    ends = [0.0, prediction.delta_cdrsb]
    ends += [end for one in prediction.intervals for end in (one.low, one.high)]
    ends += list(outcomes.edges) if outcomes else []
    scale = _Scale.over(min(ends), max(ends), WIDTH)
    bars: list[Bar] = []
    if outcomes:
        # The area of a bar is its visits, since bars are of different widths.
        densities = [
            n / (high - low) for n, low, high in zip(outcomes.counts, outcomes.edges, outcomes.edges[1:], strict=False)
        ]
        for density, n, low, high in zip(densities, outcomes.counts, outcomes.edges, outcomes.edges[1:], strict=False):
            height = HISTOGRAM_HEIGHT * density / max(densities)
            title = f"{n} training patients changed by {low:g} to {high:g}"
            bars.append(Bar(scale(low), HISTOGRAM_HEIGHT - height, scale(high) - scale(low), height, title))
    widest_first = sorted(prediction.intervals, key=lambda one: one.low - one.high)
    intervals = tuple(
        Bar(scale(one.low), 0.0, scale(one.high) - scale(one.low), 0.0, f"{one.level:.0%}") for one in widest_first
    )
    return Axis(scale.ticks(), tuple(bars), intervals, scale(0.0), scale(prediction.delta_cdrsb))


def sum_steps(first: str, start: float, added: Sequence[tuple[str, float]], last: str) -> tuple[Step, ...]:
    """A sum from left to right: where it starts, what is added one by one, and where it ends."""
    totals = [start]
    for _, value in added:
        totals.append(totals[-1] + value)
    scale = _Scale.over(min(0.0, *totals), max(0.0, *totals), BAR_WIDTH)
    steps = [_step(first, start, 0.0, start, scale, is_end=True)]
    steps += [
        _step(name, value, before, after, scale, is_end=False)
        for (name, value), before, after in zip(added, totals, totals[1:], strict=False)
    ]
    return (*steps, _step(last, totals[-1], 0.0, totals[-1], scale, is_end=True))


@dataclass(frozen=True)
class _Scale:
    """From values to pixels."""

    low: float
    high: float
    width: float

    @classmethod
    def over(cls, low: float, high: float, width: float) -> _Scale:
        return cls(low, high if high - low > SHORTEST else low + 1.0, width)

    def __call__(self, value: float) -> float:
        return MARGIN + (self.width - 2 * MARGIN) * (value - self.low) / (self.high - self.low)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Six round numbers or so."""
        rough = (self.high - self.low) / 7
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return tuple((self(step * n), f"{step * n:+.6g}" if n else "0") for n in range(first, last + 1))


def _step(name: str, value: float, start: float, end: float, scale: _Scale, *, is_end: bool) -> Step:
    left, right = sorted((scale(start), scale(end)))
    return Step(name, value, left, max(right - left, 1.0), is_end)
