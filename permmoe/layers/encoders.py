"""One encoder a modality: from an observed volume or table row to T tokens of width d.

With a few hundred subjects an encoder has to keep WHERE a value was measured: registered brains are about location,
and global average pooling was measured to learn nothing. So every volume encoder ends in a linear map of a coarse grid.
Norms are group norms, behind the pooling, where their backward pass is cheap; ReLU stands behind max-pooling, with
which it commutes, for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from permmoe.config import ModelConfig
from permmoe.errors import ConfigurationError
from permmoe.modality import Modality

SFCN_WIDTHS = {"sfcn": (32, 64, 128, 256, 256, 64), "sfcn_lite": (16, 32, 64, 128, 128, 64)}
"""Channels of the stem, of the pooled stages, and of the last, pointwise convolution (Peng et al. 2021, table 1)."""
GROUPS = 8

Shape = tuple[int, int, int]
Stem = Callable[[Float[Tensor, "n 1 x y z"]], Float[Tensor, "n 1 ..."]]


class TokenEncoder(nn.Module):
    """Features, dropout, and a linear map of all features to tokens."""

    def __init__(self, features: nn.Module, n_features: int, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.tokens, self.width = config.tokens, config.width
        self.features = features
        self.dropout = dropout
        self.project = nn.Linear(n_features, config.tokens * config.width)
        nn.init.normal_(self.project.weight, std=n_features**-0.5)
        nn.init.zeros_(self.project.bias)

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n {self.tokens} {self.width}"]:
        """Tokens of the visits that have this modality; volumes come as the fixed stem left them."""
        features: Tensor = self.features(inputs).flatten(1)
        if self.training and self.dropout:
            # A quarter of the time of nn.Dropout on a CPU, whose masks cost as much as the projection.
            is_kept = torch.rand(features.shape, device=features.device) >= self.dropout
            features = features * is_kept / (1 - self.dropout)
        tokens: Tensor = self.project(features)
        return tokens.view(-1, self.tokens, self.width)


class Standardise(nn.Module):
    """(value − mean) / SD of each column, with the constants that the modality declares; no parameters."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        n = len(modality.columns)
        self.register_buffer("mean", torch.tensor(modality.means or (0.0,) * n), persistent=False)
        self.register_buffer("deviation", torch.tensor(modality.deviations or (1.0,) * n), persistent=False)

    def forward(self, values: Float[Tensor, "n column"]) -> Float[Tensor, "n column"]:
        """Columns in their own units in, multiples of their SD out."""
        return (values - self.mean) / self.deviation


class Centred(nn.Module):
    """Pooled voxels minus the training visits' mean, which is a parameter that no gradient moves.

    Without it the linear map spends its steps on what all brains share. `permmoe.training.means.set_means` sets it.
    """

    def __init__(self, cells: Shape) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(1, *cells), requires_grad=False)

    def forward(self, pooled: Float[Tensor, "n 1 x y z"]) -> Float[Tensor, "n 1 x y z"]:
        """Differences from the mean brain, in the unit of the volumes."""
        return pooled - self.centre


class Convolution(nn.Conv3d):
    """A convolution whose result has its channels innermost in memory on a CPU, where that was measured to be faster.

    The layout of the weights decides, and spreads over all layers behind. They are turned for each call, next to
    nothing beside the convolution, and stay stored as usual: fused optimisers, checkpoints and the wire read memory.
    """

    def forward(self, inputs: Float[Tensor, "n fan_in x y z"]) -> Float[Tensor, "n width i j k"]:
        """As nn.Conv3d, up to rounding."""
        weight = self.weight
        if weight.device.type == "cpu":
            # A clone, since `contiguous` would take the first layer's single channel for innermost already.
            weight = weight.clone(memory_format=torch.channels_last_3d)
        return F.conv3d(inputs, weight, self.bias, self.stride, self.padding)


def fixed_stem(config: ModelConfig) -> Stem:
    """The encoder's first stage that has no parameters, applied once to volumes on their way into memory.

    `pooled` averages each volume over the coarse grid; the convolutional encoders take volumes as they are.
    """
    if config.encoder.kind != "pooled":
        return lambda volumes: volumes
    cells = pooled_cells(config)
    return lambda volumes: F.adaptive_avg_pool3d(volumes.float(), cells)


def pooled_cells(config: ModelConfig) -> Shape:
    """The pooled encoder's coarse grid: never finer than the voxels."""
    (x, y, z), (a, b, c) = config.encoder.cells, config.grid.shape
    return min(x, a), min(y, b), min(z, c)


def encoder(modality: Modality, config: ModelConfig) -> nn.Module:
    """A fresh encoder for what the fixed stem returns or, for a tabular modality, for its columns.

    Raises ConfigurationError for a grid too small for the encoder's pooling.
    """
    settings = config.encoder
    if modality.kind == "tabular":
        hidden = nn.Linear(len(modality.columns), settings.tabular_width)
        layers = nn.Sequential(Standardise(modality), hidden, nn.GELU())
        return TokenEncoder(layers, settings.tabular_width, config, config.dropout)
    if settings.kind == "pooled":
        return TokenEncoder(Centred(pooled_cells(config)), prod(pooled_cells(config)), config, settings.dropout)
    if settings.kind == "cnn":
        features, n_features = _six_layer_cnn(config.grid.shape, settings.dropout)
    else:
        features, n_features = _sfcn(config.grid.shape, SFCN_WIDTHS[settings.kind])
    return TokenEncoder(features, n_features, config, settings.dropout)


def _six_layer_cnn(grid: Shape, dropout: float) -> tuple[nn.Module, int]:
    """Flex-MoE's image encoder up to its flattening: no norms, whole channels dropped between stages."""
    layers: list[nn.Module] = []
    for (fan_in, width), pool in zip(pairwise((1, 32, 64, 128)), (2, 3, 4), strict=True):
        layers += [Convolution(fan_in, width, 3, padding=1), nn.ReLU(), Convolution(width, width, 3, padding=1)]
        layers += [nn.MaxPool3d(pool), nn.ReLU(), nn.Dropout3d(dropout)]
        grid = _halved(grid, pool)
    if min(grid) == 0:
        raise ConfigurationError(
            "the encoder 'cnn' pools by 24, so the grid needs 24 voxels or more on each axis; "
            "set grid.shape to a finer grid or encoder.kind to pooled"
        )
    return nn.Sequential(*layers[:-1]), 128 * prod(grid)


def _sfcn(grid: Shape, widths: tuple[int, ...]) -> tuple[nn.Module, int]:
    """SFCN with a stride-2 stem; on small grids, only the stages that leave two cells or more on each axis."""
    stem, *stages, last = widths
    layers: list[nn.Module] = [Convolution(1, stem, 3, stride=2, padding=1), nn.GroupNorm(GROUPS, stem), nn.ReLU()]
    grid = _halved((grid[0] + 1, grid[1] + 1, grid[2] + 1), 2)
    fan_in = stem
    for width in stages:
        if min(_halved(grid, 2)) < 2:
            break
        layers += [Convolution(fan_in, width, 3, padding=1), nn.MaxPool3d(2), nn.GroupNorm(GROUPS, width), nn.ReLU()]
        grid, fan_in = _halved(grid, 2), width
    if fan_in == stem:
        raise ConfigurationError(
            "the SFCN encoders need a grid of 7 voxels or more on each axis; "
            "set grid.shape to a finer grid or encoder.kind to pooled"
        )
    layers += [Convolution(fan_in, last, 1), nn.GroupNorm(GROUPS, last), nn.ReLU()]
    return nn.Sequential(*layers), last * prod(grid)


def _halved(grid: Shape, by: int) -> Shape:
    return grid[0] // by, grid[1] // by, grid[2] // by
