"""Max-pooling over blocks that do not overlap, whose backward pass gives the same bits twice on every device.

PyTorch's own adds gradients up in whichever order a GPU's threads come; before version 2.13 it refuses where
deterministic algorithms are asked for. No two blocks share a voxel here, so nothing has to be added up: each voxel
looks whether its block chose it.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn


class MaxPooling(nn.MaxPool3d):
    """PyTorch's max-pooling with a stride of its size; where deterministic algorithms are on, `max_pooled`."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size

    def forward(self, inputs: Float[Tensor, "n channel x y z"]) -> Float[Tensor, "n channel i j k"]:
        """The largest value of each block of size³ voxels; what does not fill a block is left out."""
        if torch.are_deterministic_algorithms_enabled():
            return max_pooled(inputs, self.size)
        pooled: Tensor = super().forward(inputs)
        return pooled


def max_pooled(inputs: Float[Tensor, "n channel x y z"], size: int) -> Float[Tensor, "n channel i j k"]:
    """PyTorch's result and, bit for bit, its gradient: the first of equal voxels has it, the last of NaNs."""
    pooled: Tensor = _MaxPooled.apply(inputs, size)[0]  # type: ignore[no-untyped-call]
    return pooled


class _MaxPooled(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(inputs: Tensor, size: int) -> tuple[Tensor, Tensor]:
        pooled, places = F.max_pool3d(inputs, size, return_indices=True)
        return pooled, places

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        # The inputs need not be kept in memory, as PyTorch's backward pass keeps them.
        volumes, ctx.size = inputs
        ctx.grid = tuple(volumes.shape[2:])
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return spread_over_blocks(gradients[0], places, ctx.grid, ctx.size), None


def spread_over_blocks(
    values: Float[Tensor, "n channel i j k"],
    places: Int64[Tensor, "n channel i j k"],
    grid: tuple[int, int, int],
    size: int,
) -> Float[Tensor, "n channel x y z"]:
    """Volumes with each block's value at its place, which is numbered through a volume, and zeros elsewhere.

    They lie in memory as `places` do, with channels outermost or innermost.
    """
    i, j, k = places.shape[2:]
    filled = (size * i, size * j, size * k)
    numbers = torch.arange(prod(grid), device=places.device).view(grid)[: filled[0], : filled[1], : filled[2]]
    numbers = numbers.reshape(i, size, j, size, k, size)
    # Plus zero, since PyTorch adds to zeros: a gradient of -0 becomes 0.
    values = values + 0.0
    if places.stride(1) < places.stride(-1):
        values, places = (x.movedim(1, -1)[:, :, None, :, None, :, None] for x in (values, places))
        spread = torch.where(places == numbers.unsqueeze(-1), values, 0.0)
        spread = spread.flatten(5, 6).flatten(3, 4).flatten(1, 2).movedim(-1, 1)
    else:
        values, places = (x[:, :, :, None, :, None, :, None] for x in (values, places))
        spread = torch.where(places == numbers, values, 0.0).flatten(6, 7).flatten(4, 5).flatten(2, 3)
    rim = [n - used for n, used in zip(grid, filled, strict=True)]
    return F.pad(spread, (0, rim[2], 0, rim[1], 0, rim[0])) if any(rim) else spread
