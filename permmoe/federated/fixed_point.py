"""Numbers as 64-bit integers with 32 fractional bits: sums of them are exact, and the same in any order.

The resolution is 2^-32 (2.3e-10), far under what float32 weights resolve, and the range ±2^31. A plain running sum and
a masked sum modulo 2^64 carry the same integers, so both end with the same weights to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

ONE = 1 << 32
"""1.0 in fixed point."""
LARGEST = (1 << 63) - 1

QUICK = 1 << 51
"""Numbers of a smaller reach take the quick way in `add_to`."""
CHUNK = 1 << 16
"""Numbers that `add_to` works on at once: what it writes in between stays in the processor's cache."""


class FixedPointOverflowError(Exception):
    """A number, or a sum, that 64 bits could not hold."""


@dataclass(frozen=True)
class Term:
    """Numbers times a factor, to be added to a sum."""

    values: Float32[Tensor, " n"]
    factor: float
    reach: int
    """No product is further from zero, in fixed point."""


def reach_of(values: Float32[Tensor, " n"], factor: float = 1.0) -> int:
    """The largest magnitude of values times a factor, in fixed point. Raises FixedPointOverflowError."""
    low, high = torch.aminmax(values.detach())
    # Rounding keeps order, so this is the largest magnitude exactly. NaN fails the comparison too, and 2^63 - 1 is no
    # float64.
    reach = torch.maximum(-low, high).double().mul(factor * ONE).round().item()
    if not reach < 2.0**63:
        raise FixedPointOverflowError("a weighted change")
    return int(reach)


def to_fixed_point(values: Float32[Tensor, " n"], factor: float = 1.0) -> tuple[Int64[Tensor, " n"], int]:
    """Values times a factor to the nearest 2^-32, and the largest magnitude. Raises FixedPointOverflowError."""
    reach = reach_of(values, factor)
    return values.double().mul_(factor * ONE).round_().to(torch.int64), reach


def add_to(total: Int64[Tensor, " n"], terms: Sequence[Term]) -> None:
    """Add terms in place, modulo 2^64: what `to_fixed_point` gives for each, to the last bit, in less time.

    A float64 of 2^52 and more has no bits for a fraction. So adding 3·2^51 to a number below 2^51 rounds it to the
    nearest integer, half to even, as `round` does, and the bits of the sum are those of 3·2^51 plus that integer. They
    are added as integers, and the bits of 3·2^51 taken off again once. A power of two moves the point: 3·2^19 rounds to
    the nearest 2^-32, so that without a factor nothing need be multiplied.
    """
    quick: list[tuple[np.ndarray, float, float]] = []
    for term in terms:
        if term.reach < QUICK:
            rounder = 3 * 2.0**51 / (ONE if term.factor == 1.0 else 1)
            quick.append((term.values.detach().numpy(), term.factor, rounder))
        else:
            total.add_(to_fixed_point(term.values, term.factor)[0])
    if not quick:
        return
    own = total.numpy()
    offset = _wrapped(sum(int(np.float64(rounder).view(np.int64)) for _, _, rounder in quick))
    wide = np.empty(min(CHUNK, len(own)))
    for start in range(0, len(own), CHUNK):
        chunk = own[start : start + CHUNK]
        numbers = wide[: len(chunk)]
        for values, factor, rounder in quick:
            np.copyto(numbers, values[start : start + CHUNK])
            if factor != 1.0:
                np.multiply(numbers, factor * ONE, out=numbers)
            np.add(numbers, rounder, out=numbers)
            np.add(chunk, numbers.view(np.int64), out=chunk)
        np.subtract(chunk, offset, out=chunk)


def _wrapped(number: int) -> int:
    """The number modulo 2^64, as 64 bits with a sign hold it."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
