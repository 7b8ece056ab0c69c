"""What sites and server give one another from stage 3 on, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt32, UInt64


@dataclass(frozen=True)
class MaskedInput:
    """A site's bits and numbers under their masks: to anybody else random."""

    site: str
    bits: UInt32[np.ndarray, " block"]
    numbers: UInt64[np.ndarray, " n"]
    signature: bytes
    """Of the bits and of whom they are masked with."""


@dataclass(frozen=True)
class MaskedBits:
    """What of a masked input is shown to the other sites."""

    bits: UInt32[np.ndarray, " block"]
    signature: bytes


@dataclass(frozen=True)
class CountShares:
    """What one site gives in stage 4; a peer is in one of the two, never in both."""

    count_seeds: Mapping[str, bytes]
    """For each site whose input came, a share of the seed of its bits' mask."""
    mask_keys: Mapping[str, bytes]
    """For each site whose input did not come, a share of its mask key."""


@dataclass(frozen=True)
class Evidence:
    """How many sites hold each block, in a form that every site can check."""

    bits: Mapping[str, MaskedBits]
    """Of every site whose input came."""
    count_seeds: Mapping[str, bytes]
    """Of the same sites."""
    mask_keys: Mapping[str, bytes]
    """Of the sites that shared and whose input did not come."""


@dataclass(frozen=True)
class Unmasking:
    """What one site gives in stage 5."""

    block_keys: Mapping[str, bytes]
    """For each released block the key of this site's own mask."""
    input_seeds: Mapping[str, bytes]
    """For each site that is silent now a share of the seed of its masks."""


@dataclass(frozen=True)
class UnmaskedSum:
    """The sum over all sites whose input came."""

    values: Mapping[str, Int64[np.ndarray, " _"]]
    """Of every released block, in fixed point."""
    holders: Mapping[str, int]
    """Of every block."""
