"""Whole numbers with a Gaussian's law, drawn exactly: P(x) ∝ exp(−x² / 2σ²) (Canonne, Kamath and Steinke 2020,
arXiv 2004.00010, algorithms 1 to 3).

Every step compares whole numbers. A Gaussian in floating point has gaps from which its noise can be taken off again
(Mironov 2012), and a sum of such numbers is another one in another order; these are exact in the ring of a secure sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isqrt

import numpy as np
from jaxtyping import Int64

Below = Callable[[int], int]
"""A whole number from 0 up to, not including, its argument, each with equal chance: `secrets.randbelow`."""


def discrete_gaussians(variances: Sequence[int], below: Below) -> Int64[np.ndarray, " n"]:
    """Independent numbers with these parameters σ², which are above 0. From σ = 2 on their variance is σ² to 1e-30."""
    return np.array([_gaussian(variance, below) for variance in variances], np.int64)


def _gaussian(variance: int, below: Below) -> int:
    scale = isqrt(variance) + 1
    while True:
        number = _laplace(scale, below)
        if _is_drawn((abs(number) * scale - variance) ** 2, 2 * variance * scale**2, below):
            return number


def _laplace(scale: int, below: Below) -> int:
    """P(x) ∝ exp(−|x| / scale)."""
    while True:
        rest = below(scale)
        if not _is_drawn(rest, scale, below):
            continue
        whole = 0
        while _is_drawn(1, 1, below):
            whole += 1
        magnitude, is_negative = rest + scale * whole, below(2) == 1
        # 0 would else be drawn twice as often as it should.
        if magnitude or not is_negative:
            return -magnitude if is_negative else magnitude


def _is_drawn(numerator: int, denominator: int, below: Below) -> bool:
    """True with chance exp(−numerator / denominator)."""
    while numerator > denominator:
        if not _is_drawn(1, 1, below):
            return False
        numerator -= denominator
    tries = 1
    while below(denominator * tries) < numerator:
        tries += 1
    return tries % 2 == 1
