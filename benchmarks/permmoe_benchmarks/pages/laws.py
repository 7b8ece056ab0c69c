"""Laws fitted to measured curves, and what they say beyond the last point.

Two forms: a power law, y = a · x^b, which is a straight line through (log x, log y), and a straight line y = a + b · x,
for what has a fixed part. Both are fitted by least squares of RELATIVE distances, so that a small point counts as much
as a large one. A projection's interval is the usual 95% prediction interval of a regression: it accounts for scatter
and distance, not for a curve that changes its form further on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

from permmoe.errors import PermmoeError

LEAST_POINTS = 3
FURTHEST = 100.0
"""A projection goes no further than this multiple of the largest x that was measured."""


class NoLawError(PermmoeError):
    """The points do not support a law, or not one that reaches so far."""


@dataclass(frozen=True)
class Projection:
    """The value of a law at x, with its 95% interval."""

    x: float
    y: float
    lower: float
    upper: float
    beyond: float
    """x divided by the largest x measured; at most 1 within the curve."""


@dataclass(frozen=True)
class Law:
    """A law that was fitted to measured points."""

    form: Literal["power", "line"]
    a: float
    b: float
    """The exponent of a power law, the slope of a line."""
    residual: float
    """Typical relative distance of a point from the law, with two degrees of freedom fewer than points; 0.1 is 10%."""
    points: int
    largest: float
    """The largest x that was measured."""
    covariance: Float[np.ndarray, "2 2"]
    """The covariance of (intercept, slope) for a residual of 1."""

    def at(self, x: float) -> Projection:
        """The value at x. Raises NoLawError beyond `FURTHEST` times the largest x, and for x of 0 or less."""
        if not x > 0:
            raise NoLawError(f"a law needs x above zero, not {x}")
        beyond = x / self.largest
        if beyond > FURTHEST:
            raise NoLawError(f"{x:g} is {beyond:.0f} times the largest measured point; that is not a projection")
        t = float(stats.t.ppf(0.975, self.points - 2))
        if self.form == "power":
            y, place = self.a * x**self.b, np.array([1.0, math.log(x)])
            error = self.residual * math.sqrt(1 + float(place @ self.covariance @ place))
            reach = math.exp(min(40.0, t * error))  # beyond a factor of e^40 an interval says nothing anyway
            return Projection(x, y, y / reach, y * reach, beyond)
        y, place = self.a + self.b * x, np.array([1.0, x])
        reach = t * self.residual * math.sqrt(y**2 + float(place @ self.covariance @ place))
        return Projection(x, y, max(0.0, y - reach), y + reach, beyond)


def power_law(x: Sequence[float], y: Sequence[float]) -> Law:
    """The power law nearest to the points.

    Raises NoLawError for fewer than three different x, and for values that are not above zero.
    """
    at, values = _points(x, y)
    (intercept, slope), residual, covariance = _fit(np.log(at), np.log(values), np.ones_like(at))
    return Law("power", math.exp(intercept), slope, residual, at.size, float(at.max()), covariance)


def straight_line(x: Sequence[float], y: Sequence[float]) -> Law:
    """The straight line nearest to the points. Raises NoLawError as `power_law` does."""
    at, values = _points(x, y)
    (intercept, slope), residual, covariance = _fit(at, values, 1 / values)
    return Law("line", intercept, slope, residual, at.size, float(at.max()), covariance)


def best_law(x: Sequence[float], y: Sequence[float]) -> Law:
    """A power law, unless its exponent is below one and a line with a fixed part and a slope can stand in its place.

    What is paid for each of x never grows more slowly than x further on, however few points say so: a small exponent
    is the mark of a fixed part, and a power law would hide what comes behind it.
    """
    power, line = power_law(x, y), straight_line(x, y)
    return line if power.b < 1 and line.a >= 0 and line.b >= 0 else power


def end_exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent between the last two points, where a cost of several parts is steeper than over the whole curve."""
    at, values = _points(x, y)
    last, before = np.argsort(at)[[-1, -2]]
    return math.log(values[last] / values[before]) / math.log(at[last] / at[before])


def _points(x: Sequence[float], y: Sequence[float]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    at, values = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if at.shape != values.shape:
        raise NoLawError(f"{at.size} places and {values.size} values are no curve")
    if (different := len(set(at.tolist()))) < LEAST_POINTS:
        raise NoLawError(f"{different} different points are too few for a law; {LEAST_POINTS} are needed")
    if not (np.isfinite(at).all() and np.isfinite(values).all() and at.min() > 0 and values.min() > 0):
        raise NoLawError("a law needs points above zero")
    return at, values


def _fit(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> tuple[tuple[float, float], float, Float[np.ndarray, "2 2"]]:
    """Intercept and slope, the root mean square of weighted distances, and the covariance for a mean square of 1."""
    design = np.stack([np.ones_like(x), x], 1) * weights[:, None]
    solution, *_ = np.linalg.lstsq(design, y * weights, rcond=None)
    distances = design @ solution - y * weights
    residual = math.sqrt(float(distances @ distances) / (x.size - 2))
    return (float(solution[0]), float(solution[1])), residual, np.linalg.inv(design.T @ design)
