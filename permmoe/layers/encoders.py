"""The encoders, one for each modality: from an observed volume or table row to T tokens of width d.

With a few hundred subjects an encoder has to keep WHERE a value was measured: registered brains are about location,
and global average pooling was measured to learn nothing. So every volume encoder ends in a linear map of a coarse grid.
Which encoders of volumes there are is declared in permmoe.encoder_kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from permmoe.config import ModelConfig
from permmoe.layers.noise import Dropout, uniform_like
from permmoe.modality import Modality

Shape = tuple[int, int, int]


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
            is_kept = uniform_like(features) >= self.dropout
            features = features * is_kept / (1 - self.dropout)
        tokens: Tensor = self.project(features)
        return tokens.view(-1, self.tokens, self.width)


class SliceEncoder(nn.Module):
    """Features in T slices of one length, the last filled up with zeros, and one linear map from a slice to a token.

    What Flex-MoE's code calls patches of an image or of a table's columns. A slice is a run of features, no place.
    """

    def __init__(self, features: nn.Module, n_features: int, config: ModelConfig) -> None:
        super().__init__()
        self.tokens, self.width = config.tokens, config.width
        self.features = features
        self.length = ceil(n_features / config.tokens)
        self.project = nn.Linear(self.length, config.width)

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n {self.tokens} {self.width}"]:
        """Tokens of the visits that have this modality; volumes come as the fixed stem left them."""
        features: Tensor = self.features(inputs).flatten(1)
        filled = F.pad(features, (0, self.tokens * self.length - features.shape[1]))
        tokens: Tensor = self.project(filled.view(-1, self.tokens, self.length))
        return tokens


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

    `permmoe.training.means.set_means` sets it. Without it the linear map would spend its steps on what brains share.
    """

    def __init__(self, cells: Shape) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(1, *cells), requires_grad=False)

    def forward(self, pooled: Float[Tensor, "n 1 x y z"]) -> Float[Tensor, "n 1 x y z"]:
        """Differences from the mean brain, in the unit of the volumes."""
        return pooled - self.centre


@dataclass(frozen=True)
class CellStem:
    """Averages volumes over a coarse grid of so many cells."""

    cells: Shape
    shrinks: bool = True

    def __call__(self, volumes: Float[Tensor, "n 1 x y z"]) -> Float[Tensor, "n 1 ..."]:
        """A mean for each cell, in the unit of the volumes."""
        return F.adaptive_avg_pool3d(volumes.float(), self.cells)


@dataclass(frozen=True)
class VoxelStem:
    """Changes nothing."""

    shrinks: bool = False

    def __call__(self, volumes: Float[Tensor, "n 1 x y z"]) -> Float[Tensor, "n 1 ..."]:
        """The volumes."""
        return volumes


def fixed_stem(config: ModelConfig) -> CellStem | VoxelStem:
    """The encoder's first stage that has no parameters, applied once to volumes on their way into memory.

    It averages each volume over the coarse grid for an encoder that reads cells, and changes nothing for one that
    reads voxels.
    """
    return VoxelStem() if config.encoder.declaration.reads == "voxels" else CellStem(pooled_cells(config))


def pooled_cells(config: ModelConfig) -> Shape:
    """The coarse grid of the encoders that read cells: never finer than the voxels."""
    (x, y, z), (a, b, c) = config.encoder.cells, config.grid.shape
    return min(x, a), min(y, b), min(z, c)


def pooled(config: ModelConfig) -> tuple[nn.Module, int]:
    """The features of the pooled encoder: the cells themselves, centred."""
    cells = pooled_cells(config)
    return Centred(cells), prod(cells)


def volume_encoder(modality: Modality, config: ModelConfig) -> nn.Module:
    """A fresh encoder for what the fixed stem returns. Raises ConfigurationError for a grid too small for it."""
    features, n_features = config.encoder.declaration.build(config)
    # Where channels are dropped the features have done it.
    dropout = config.encoder.dropout if config.encoder.dropout_of == "features" else 0.0
    if config.encoder.token_map == "features":
        return TokenEncoder(features, n_features, config, dropout)
    summary = nn.Sequential(features, nn.Flatten(), Dropout(dropout), nn.Linear(n_features, config.width))
    return SliceEncoder(summary, config.width, config)


def table_encoder(modality: Modality, config: ModelConfig) -> nn.Module:
    """A fresh encoder for a modality's columns: a two-layer perceptron, or a linear map of slices of them."""
    if config.encoder.token_map == "slices":
        return SliceEncoder(Standardise(modality), len(modality.columns), config)
    width = config.encoder.tabular_width
    layers = nn.Sequential(Standardise(modality), nn.Linear(len(modality.columns), width), nn.GELU())
    return TokenEncoder(layers, width, config, config.dropout)
