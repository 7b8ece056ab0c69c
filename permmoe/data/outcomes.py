"""How a training set's outcomes are distributed, for a model's card: no entry of it is about a few visits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from permmoe.config import Configuration, parse_config

LEAST_VISITS = 5
"""A bar of fewer is put together with its neighbour: as few as a hospital lets out of a sum (`min_cell_count`)."""
BARS = 24
"""At most, before any are put together."""
STEPS = (0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0, 10.0)
"""Widths of a bar, times a power of a hundred: edges are round numbers and none is one visit's outcome."""


class Outcomes(Configuration):
    """Training visits' changes of the score: a histogram, and the line that predicts them from the score alone."""

    edges: tuple[float, ...] = Field(min_length=2, description="of the bars, increasing, in the score's unit")
    counts: tuple[int, ...] = Field(description="visits in each bar")
    mean: float = Field(description="of the changes")
    mean_score: float = Field(description="of the score at the visit")
    slope: float = Field(description="change for each unit of the score at the visit, by least squares")

    @model_validator(mode="after")
    def _is_consistent(self) -> Outcomes:
        if len(self.counts) != len(self.edges) - 1 or list(self.edges) != sorted(set(self.edges)):
            raise ValueError("a histogram needs increasing edges and one count between two of them")
        if min(self.counts) < LEAST_VISITS:
            raise ValueError(f"a histogram's bar has fewer than {LEAST_VISITS} visits")
        if not all(map(math.isfinite, (*self.edges, self.mean, self.mean_score, self.slope))):
            raise ValueError("a histogram's numbers have to be finite")
        return self

    @property
    def visits(self) -> int:
        """How many there are."""
        return sum(self.counts)

    def expected(self, score: float) -> float:
        """The change of visits with this score, by the line."""
        return self.mean + self.slope * (score - self.mean_score)


def outcomes_of(score: Float[Tensor, " visit"], change: Float[Tensor, " visit"]) -> Outcomes | None:
    """The distribution of visits' changes, by their score at the visit; None where there are fewer than two bars of it.

    A change that is not known, NaN, does not count.
    """
    known = ~change.isnan()
    scores, changes = score[known].double().numpy(), change[known].double().numpy()
    if len(changes) < 2 * LEAST_VISITS:
        return None
    step = _step(float(np.ptp(changes)) / BARS)
    edges = step * np.arange(math.floor(changes.min() / step), math.floor(changes.max() / step) + 2)
    counts, _ = np.histogram(changes, edges)
    kept_edges, kept_counts = _merged([float(f"{edge:.6g}") for edge in edges], [int(n) for n in counts])
    if len(kept_counts) < 2:
        return None
    spread = float(scores.var())
    slope = float(np.mean((scores - scores.mean()) * (changes - changes.mean()))) / spread if spread > 0 else 0.0
    mean, mean_score, slope = (float(f"{value:.6g}") for value in (changes.mean(), scores.mean(), slope))
    return Outcomes(edges=kept_edges, counts=kept_counts, mean=mean, mean_score=mean_score, slope=slope)


def read_outcomes(card: Mapping[str, Any], source: str) -> Outcomes | None:
    """The distribution in a model's card; None where it has none. Raises ConfigurationError for one that is none."""
    values = card.get("outcomes")
    return None if values is None else parse_config(values, Outcomes, f"the outcomes of {source}")


def _step(least: float) -> float:
    """The smallest round width of at least so much."""
    if least <= 0:
        return 1.0
    scale = 100.0 ** math.floor(math.log10(least) / 2 + 0.5)
    return next((scale * step for step in STEPS if scale * step >= least), 10 * scale)


def _merged(edges: list[float], counts: list[int]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Bars from left to right, each closed as soon as it has enough; what is left at the end joins the last one."""
    kept_edges, kept_counts, waiting = [edges[0]], [], 0
    for edge, count in zip(edges[1:], counts, strict=True):
        waiting += count
        if waiting >= LEAST_VISITS:
            kept_edges.append(edge)
            kept_counts.append(waiting)
            waiting = 0
    if waiting and kept_counts:
        kept_counts[-1] += waiting
    if kept_counts:
        kept_edges[-1] = edges[-1]
    return tuple(kept_edges), tuple(kept_counts)
