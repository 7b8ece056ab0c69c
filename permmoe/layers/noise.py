"""The random numbers of a forward pass: drawn as it goes or, for models that are trained together, drawn beforehand.

`torch.func.vmap` over models can only draw from one generator for all of them, so that what one model drops would
depend on which others stand beside it. Its models bring their numbers along instead (`predrawn`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Numbers:
    """Tensors of numbers that a pass takes in the order in which it asks; without any it draws its own."""

    uniform: Sequence[Tensor] | None = None
    """In [0, 1)."""
    normal: Sequence[Tensor] | None = None
    asked_uniform: list[torch.Size] = field(default_factory=list)
    """The shapes that were asked for."""
    asked_normal: list[torch.Size] = field(default_factory=list)

    def uniform_like(self, values: Tensor) -> Tensor:
        """The next numbers, in the shape of the values."""
        self.asked_uniform.append(values.shape)
        if self.uniform is None:
            return torch.rand_like(values, dtype=torch.float32)
        return self.uniform[len(self.asked_uniform) - 1]

    def normal_like(self, values: Tensor) -> Tensor:
        """The next numbers, in the shape of the values."""
        self.asked_normal.append(values.shape)
        return torch.randn_like(values) if self.normal is None else self.normal[len(self.asked_normal) - 1]


_NUMBERS: ContextVar[Numbers | None] = ContextVar("numbers", default=None)


@contextmanager
def predrawn(numbers: Numbers) -> Iterator[Numbers]:
    """Passes inside take these numbers instead of drawing from PyTorch's generator."""
    token = _NUMBERS.set(numbers)
    try:
        yield numbers
    finally:
        _NUMBERS.reset(token)


def uniform_like(values: Tensor) -> Tensor:
    """Numbers in [0, 1) in the shape of the values."""
    numbers = _NUMBERS.get()
    return torch.rand(values.shape, device=values.device) if numbers is None else numbers.uniform_like(values)


def normal_like(values: Tensor) -> Tensor:
    """Standard normal numbers in the shape of the values."""
    numbers = _NUMBERS.get()
    return torch.randn_like(values) if numbers is None else numbers.normal_like(values)


def dropped(values: Tensor, rate: float, training: bool) -> Tensor:
    """Dropout: while training each value is zero with chance `rate`, and the others are divided by 1 − rate."""
    numbers = _NUMBERS.get()
    if numbers is None or not training or not rate:
        return F.dropout(values, rate, training)
    return values * (numbers.uniform_like(values) >= rate) / (1 - rate)


class Dropout(nn.Module):
    """`dropped` as a layer."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, values: Tensor) -> Tensor:
        """The values, some of them zero while training."""
        return dropped(values, self.rate, self.training)
