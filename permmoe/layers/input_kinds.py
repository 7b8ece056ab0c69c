"""How each kind of modality enters the model.

A further kind is one entry here, for the encoding, and one in permmoe.data.kinds, for the reading; its name is declared
in permmoe.modality.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from permmoe.config import ModelConfig
from permmoe.layers.encoders import Shape, Standardise, pooled_cells, table_encoder, volume_encoder
from permmoe.modality import Modality


@dataclass(frozen=True)
class InputKind:
    """What the model does with one kind of modality."""

    encoder: Callable[[Modality, ModelConfig], nn.Module]
    """A fresh encoder, from observed inputs to tokens [n, token, dim]."""
    shape: Callable[[Modality, ModelConfig], tuple[int, ...]]
    """The shape of one visit's input, as a batch holds it."""
    ridge_features: Callable[[Modality, Shape], tuple[nn.Module, int]]
    """A module without parameters from inputs to the ridge's features [n, feature], and their number. It is given the
    ridge's coarse grid."""
    of_features: Callable[[Modality, ModelConfig, Shape], nn.Module]
    """A module without parameters from such features back to inputs, as a batch holds them."""


class CoarseVoxels(nn.Module):
    """Means over the cells of a coarse grid, in double precision."""

    def __init__(self, cells: Shape) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, volumes: Float[Tensor, "n 1 x y z"]) -> Float64[Tensor, "n feature"]:
        """One feature a cell, in the unit of the volumes."""
        return F.adaptive_avg_pool3d(volumes.double(), self.cells).flatten(1)


class Interpolated(nn.Module):
    """Volumes between the means of a coarse grid's cells, linearly; the means themselves where the grids are one."""

    def __init__(self, cells: Shape, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.cells, self.shape = cells, shape

    def forward(self, features: Float64[Tensor, "n feature"]) -> Float[Tensor, "n 1 x y z"]:
        """One voxel, or cell of an encoder's grid, after the other, in the unit of the volumes."""
        coarse = features.view(-1, 1, *self.cells)
        return F.interpolate(coarse, size=self.shape, mode="trilinear", align_corners=False).float()


class Unstandardised(nn.Module):
    """Columns in their own units from multiples of their SD."""

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        self.scale = Standardise(modality)

    def forward(self, features: Float64[Tensor, "n column"]) -> Float[Tensor, "n column"]:
        """The inverse of `Standardise`."""
        return (features * self.scale.deviation + self.scale.mean).float()


def _volume_shape(modality: Modality, config: ModelConfig) -> tuple[int, ...]:
    return (1, *(pooled_cells(config) if config.encoder.declaration.reads == "cells" else config.grid.shape))


_COLUMNS = InputKind(
    encoder=table_encoder,
    shape=lambda modality, config: (len(modality.columns),),
    ridge_features=lambda modality, cells: (Standardise(modality), len(modality.columns)),
    of_features=lambda modality, config, cells: Unstandardised(modality),
)

INPUT_KINDS: dict[str, InputKind] = {
    "volume": InputKind(
        encoder=volume_encoder,
        shape=_volume_shape,
        ridge_features=lambda modality, cells: (CoarseVoxels(cells), prod(cells)),
        of_features=lambda modality, config, cells: Interpolated(cells, _volume_shape(modality, config)[1:]),
    ),
    "tabular": _COLUMNS,
    "history": _COLUMNS,
}
"""By the name that a modality's `kind` gives."""
