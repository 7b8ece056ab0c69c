"""Numbers as 64-bit integers with 32 fractional bits: sums of them are exact, and the same in any order.

The resolution is 2^-32 (2.3e-10), far under what float32 weights resolve, and the range ±2^31. A plain running sum and
a masked sum modulo 2^64 carry the same integers, so both end with the same weights to the last bit.
"""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

ONE = 1 << 32
"""1.0 in fixed point."""
LARGEST = (1 << 63) - 1


class FixedPointOverflowError(Exception):
    """A number, or a sum, that 64 bits could not hold."""


def to_fixed_point(values: Float32[Tensor, " n"], factor: float = 1.0) -> tuple[Int64[Tensor, " n"], int]:
    """Values times a factor to the nearest 2^-32, and the largest magnitude. Raises FixedPointOverflowError."""
    scale = factor * ONE
    low, high = torch.aminmax(values.detach())
    # Rounding keeps order, so this is the largest magnitude exactly. NaN fails the comparison too, and 2^63 - 1 is no
    # float64.
    reach = torch.maximum(-low, high).double().mul(scale).round().item()
    if not reach < 2.0**63:
        raise FixedPointOverflowError("a weighted change")
    return values.double().mul_(scale).round_().to(torch.int64), int(reach)
