"""Figures along a curve of a run's JSON, and what they come to elsewhere."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from permmoe_benchmarks.pages.laws import Law, NoLawError, best_law, end_exponent

DEFAULT_FIGURE = {
    "step": "seconds", "epoch": "seconds", "plain_round": "server_seconds", "secure_round": "server_seconds",
    "superlink_round": "round_seconds", "private_step": "ratio", "study": "cells_a_minute",
    "ray_overhead": "client_seconds",
}  # fmt: skip
"""By kind of point: the figure that its curve is first of all about."""
REPEATED = ("server_seconds", "round_seconds")
"""Figures whose single rounds are in `values`."""

Result = Mapping[str, Any]
"""The JSON of a run."""


@dataclass(frozen=True)
class Series:
    """One figure along a curve: the median of each point, and the least and the most of its repeats."""

    x: list[float]
    median: list[float]
    least: list[float]
    most: list[float]
    repeats: int


@dataclass(frozen=True)
class Estimate:
    """A figure at some x, and where it comes from."""

    y: float
    lower: float
    upper: float
    source: str
    """`measured`, or the law and how far beyond the curve x lies."""
    steep: float | None = None
    """What the last two points alone would give, where the x lies beyond the curve."""


def series(curve: Mapping[str, Any], figure: str) -> Series:
    """A figure along a curve of the JSON; `figure` may be a path such as stage_seconds.mask."""
    x, found = [], []
    for point in curve["points"]:
        values: list[float] = []
        for turn in point["turns"]:
            values += turn["values"] if figure in REPEATED and "values" in turn else [_figure(turn, figure)]
        x.append(float(point["x"]))
        found.append(values)
    return Series(
        x, [statistics.median(v) for v in found], [min(v) for v in found], [max(v) for v in found],
        max(len(v) for v in found),
    )  # fmt: skip


def law_of(found: Series) -> Law | None:
    """The law of the medians; None where the points do not support one."""
    try:
        return best_law(found.x, found.median)
    except NoLawError:
        return None


def law_text(law: Law) -> str:
    """A law's form in a few characters."""
    return f"∝ x^{law.b:.2f}" if law.form == "power" else "fixed part + x"


def estimate(result: Result, name: str, figure: str, x: float) -> Estimate | None:
    """A figure at x: as measured where it was, else by the curve's law. None without the curve or without a law."""
    curve = result["curves"].get(name)
    if curve is None:
        return None
    found = series(curve, figure)
    if x in found.x:
        place = found.x.index(x)
        return Estimate(found.median[place], found.least[place], found.most[place], "measured")
    law = law_of(found)
    if law is None:
        return None
    try:
        projection = law.at(x)
    except NoLawError:
        return None
    if projection.beyond <= 1:
        return Estimate(projection.y, projection.lower, projection.upper, f"{law_text(law)}, within the curve")
    last = max(range(len(found.x)), key=found.x.__getitem__)
    steep = found.median[last] * (x / found.x[last]) ** end_exponent(found.x, found.median)
    source = f"{law_text(law)}, {projection.beyond:.3g} × beyond {law.largest:g}"
    return Estimate(projection.y, projection.lower, projection.upper, source, steep)


def _figure(turn: Mapping[str, Any], path: str) -> float:
    found: Any = turn
    for key in path.split("."):
        found = found[key]
    return float(found)
