"""The features of the convolutional encoders: Flex-MoE's CNN, and SFCN in two sizes.

Norms are group norms, behind the pooling, where their backward pass is cheap; ReLU stands behind max-pooling, with
which it commutes, for the same reason.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from permmoe.config import ModelConfig
from permmoe.errors import ConfigurationError
from permmoe.layers.pooling import MaxPooling

SFCN_WIDTHS = (32, 64, 128, 256, 256, 64)
"""Channels of the stem, of the pooled stages, and of the last, pointwise convolution (Peng et al. 2021, table 1)."""
SFCN_LITE_WIDTHS = (16, 32, 64, 128, 128, 64)
GROUPS = 8

Shape = tuple[int, int, int]


class Convolution(nn.Conv3d):
    """A convolution whose result has its channels innermost in memory on a CPU, where that was measured to be faster.

    The layout of the weights decides it, for all layers behind as well. The weights are copied into that layout at
    each call, which costs next to nothing beside the convolution. They stay stored as usual, since fused optimisers,
    checkpoints and messages read them as they lie in memory.
    """

    def forward(self, inputs: Float[Tensor, "n fan_in x y z"]) -> Float[Tensor, "n width i j k"]:
        """As nn.Conv3d, up to rounding."""
        weight = self.weight
        if weight.device.type == "cpu":
            # A clone, since `contiguous` would take the first layer's single channel for innermost already.
            weight = weight.clone(memory_format=torch.channels_last_3d)
        return F.conv3d(inputs, weight, self.bias, self.stride, self.padding)


def six_layer_cnn(config: ModelConfig) -> tuple[nn.Module, int]:
    """Flex-MoE's image encoder up to its flattening: no norms, whole channels dropped between stages.

    Behind the last stage they are dropped where `dropout_of` says so; else the map to tokens drops single features.
    """
    grid: Shape = config.grid.shape
    layers: list[nn.Module] = []
    for (fan_in, width), pool in zip(pairwise((1, 32, 64, 128)), (2, 3, 4), strict=True):
        layers += [Convolution(fan_in, width, 3, padding=1), nn.ReLU(), Convolution(width, width, 3, padding=1)]
        layers += [MaxPooling(pool), nn.ReLU(), nn.Dropout3d(config.encoder.dropout)]
        grid = _divided(grid, pool)
    if min(grid) == 0:
        raise ConfigurationError(
            "the encoder 'cnn' pools by 24, so the grid needs 24 voxels or more on each axis; "
            "set grid.shape to a finer grid or encoder.kind to pooled"
        )
    kept = layers if config.encoder.dropout_of == "channels" else layers[:-1]
    return nn.Sequential(*kept), 128 * prod(grid)


def sfcn(config: ModelConfig) -> tuple[nn.Module, int]:
    """SFCN with the channels of the paper."""
    return _sfcn(config.grid.shape, SFCN_WIDTHS)


def sfcn_lite(config: ModelConfig) -> tuple[nn.Module, int]:
    """SFCN with half the channels, but for the last."""
    return _sfcn(config.grid.shape, SFCN_LITE_WIDTHS)


def _sfcn(grid: Shape, widths: tuple[int, ...]) -> tuple[nn.Module, int]:
    """SFCN with a stride-2 stem; on small grids, only the stages that leave two cells or more on each axis."""
    stem, *stages, last = widths
    layers: list[nn.Module] = [Convolution(1, stem, 3, stride=2, padding=1), nn.GroupNorm(GROUPS, stem), nn.ReLU()]
    grid = _divided((grid[0] + 1, grid[1] + 1, grid[2] + 1), 2)
    fan_in = stem
    for width in stages:
        if min(_divided(grid, 2)) < 2:
            break
        layers += [Convolution(fan_in, width, 3, padding=1), MaxPooling(2), nn.GroupNorm(GROUPS, width), nn.ReLU()]
        grid, fan_in = _divided(grid, 2), width
    if fan_in == stem:
        raise ConfigurationError(
            "the SFCN encoders need a grid of 7 voxels or more on each axis; "
            "set grid.shape to a finer grid or encoder.kind to pooled"
        )
    layers += [Convolution(fan_in, last, 1), nn.GroupNorm(GROUPS, last), nn.ReLU()]
    return nn.Sequential(*layers), last * prod(grid)


def _divided(grid: Shape, by: int) -> Shape:
    """The grid behind a pooling, which leaves out what does not fill a cell."""
    return grid[0] // by, grid[1] // by, grid[2] // by
