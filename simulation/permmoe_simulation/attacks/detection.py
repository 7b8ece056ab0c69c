"""How well a score tells members from others, and how well it could at most under differential privacy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
from jaxtyping import Float, Int

from permmoe.evaluation.intervals import Interval

Array = np.ndarray
LOW_FALSE_POSITIVES = 0.05
"""The false-positive rate at which a detection rate is reported: an average hides the few who are exposed."""


@dataclass(frozen=True)
class Detection:
    """One score of one attack under one protection, over trials that each played both worlds."""

    auc: Interval
    true_positives: Interval
    """Share of members found where `LOW_FALSE_POSITIVES` of the others are accused."""
    false_positive_rate: Float[Array, " point"]
    true_positive_rate: Float[Array, " point"]


def detection(member: Float[Array, " trial"], other: Float[Array, " trial"], resamples: int, seed: int) -> Detection:
    """ROC, AUC and detection rate. A resample draws trials with both of their worlds, for these share their draws."""
    n = len(member)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    aucs = [auc(member, other, w) for w in weights]
    rates = [true_positive_rate(member, other, w) for w in weights]
    even = np.ones(len(member))
    false_rate, true_rate = roc(member, other)
    return Detection(
        _interval(auc(member, other, even), aucs, len(member)),
        _interval(true_positive_rate(member, other, even), rates, len(member)),
        false_rate,
        true_rate,
    )


def roc(
    member: Float[Array, " trial"], other: Float[Array, " trial"]
) -> tuple[Float[Array, " point"], Float[Array, " point"]]:
    """(False, true) positive rates as the threshold falls, both from 0 to 1; tied scores fall together."""
    thresholds = np.unique(np.concatenate([member, other]))[::-1]
    false_rate = (other[None] >= thresholds[:, None]).mean(1)
    true_rate = (member[None] >= thresholds[:, None]).mean(1)
    return np.concatenate([[0.0], false_rate]), np.concatenate([[0.0], true_rate])


def auc(member: Float[Array, " trial"], other: Float[Array, " trial"], weights: Float[Array, " trial"]) -> float:
    """The chance that a member scores above another person, ties half (the Mann-Whitney statistic)."""
    order: Int[Array, " trial"] = np.argsort(other, kind="stable")
    below = np.concatenate([[0.0], np.cumsum(weights[order])])
    first, last = (np.searchsorted(other[order], member, side=side) for side in ("left", "right"))
    wins = (below[first] + below[last]) / 2
    return float((weights * wins).sum() / (weights.sum() * weights.sum()))


def true_positive_rate(
    member: Float[Array, " trial"], other: Float[Array, " trial"], weights: Float[Array, " trial"]
) -> float:
    """Share of members above the lowest threshold that accuses at most `LOW_FALSE_POSITIVES` of the others."""
    order = np.argsort(other)[::-1]
    accused = np.cumsum(weights[order]) / weights.sum()
    spared = np.flatnonzero(accused > LOW_FALSE_POSITIVES)
    threshold = other[order[spared[0]]]
    return float((weights * (member > threshold)).sum() / weights.sum())


def allowed_roc(epsilon: float, delta: float) -> tuple[Float[Array, " point"], Float[Array, " point"]]:
    """The highest ROC that any attack on an (ε, δ)-private release can have (Kairouz et al. 2015, arXiv 1311.0776)."""
    corner = (1 - delta) / (1 + exp(epsilon))
    return np.array([0.0, corner, 1 - delta, 1.0]), np.array([delta, 1 - corner, 1.0, 1.0])


def allowed_auc(epsilon: float, delta: float) -> float:
    """The area under it: e^ε / (1 + e^ε) for δ = 0."""
    return float(np.trapezoid(*reversed(allowed_roc(epsilon, delta))))


def _interval(estimate: float, resampled: Sequence[float], n: int) -> Interval:
    lower, upper = np.percentile(resampled, [2.5, 97.5])
    return Interval(n, estimate, float(lower), float(upper))
