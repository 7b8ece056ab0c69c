"""The encoders of volumes, by the name that a configuration gives them: adding one is one entry of `ENCODERS`.

Nothing here imports PyTorch, so that a command which only reads a configuration starts at once. A declaration names
the function that builds the encoder; it is imported when a model is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Literal

from permmoe.errors import nearest


@dataclass(frozen=True)
class EncoderKind:
    """What the rest of the project has to know about an encoder of volumes."""

    description: str
    builder: str
    """`module:function`. The function takes a ModelConfig and returns the encoder's features as a module, with their
    number; raises ConfigurationError for a grid that is too small. The map to tokens is added behind them."""
    reads: Literal["cells", "voxels"]
    """Its input: means over the cells of the coarse grid, which are taken once while loading, or whole volumes."""
    visits_at_once: int
    """Visits that fit into memory together while a model is evaluated."""
    gains_from_tiles: bool
    """Whether its products are faster in bf16 on a CPU with AMX tiles, measured."""
    gains_from_gpu: bool
    """Whether a training step is faster on a GPU than on one CPU core, measured: what `device: auto` goes by. Small
    products keep a GPU waiting for the next one to be launched."""
    reconstructs: bool = False
    """Whether hidden parts of a scan can be read back off its tokens: its features are the scan itself, so that the map
    to tokens, transposed, leads back (permmoe.training.pretraining)."""
    has_channels: bool = False
    """Whether it can drop whole channels behind its last stage (`dropout_of`)."""

    def build(self, config: Any) -> Any:
        """The features of a fresh encoder and their number."""
        return resolve_name(self.builder)(config)


CONVOLVED_AT_ONCE = 8
"""Visits: the feature maps of a single volume take some 100 MB at 2 mm."""

ENCODERS: dict[str, EncoderKind] = {
    "pooled": EncoderKind(
        "pooled voxels + linear",
        "permmoe.layers.encoders:pooled",
        "cells",
        visits_at_once=256,
        gains_from_tiles=False,
        gains_from_gpu=False,
        reconstructs=True,
    ),
    "cnn": EncoderKind(
        "Flex-MoE's six-layer CNN",
        "permmoe.layers.convolutions:six_layer_cnn",
        "voxels",
        visits_at_once=CONVOLVED_AT_ONCE,
        gains_from_tiles=True,
        gains_from_gpu=True,
        has_channels=True,
    ),
    "sfcn": EncoderKind(
        "Peng 2021's SFCN",
        "permmoe.layers.convolutions:sfcn",
        "voxels",
        visits_at_once=CONVOLVED_AT_ONCE,
        gains_from_tiles=True,
        gains_from_gpu=True,
    ),
    "sfcn_lite": EncoderKind(
        "SFCN with half the channels",
        "permmoe.layers.convolutions:sfcn_lite",
        "voxels",
        visits_at_once=CONVOLVED_AT_ONCE,
        gains_from_tiles=True,
        gains_from_gpu=True,
    ),
}


def encoder_kind(name: str) -> EncoderKind:
    """The declaration of that name. Raises ValueError that names the nearest known one."""
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; {nearest(name, ENCODERS)}")
    return ENCODERS[name]
