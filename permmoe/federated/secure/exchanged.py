"""What sites and server give one another from stage 3 on, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt32, UInt64


@dataclass(frozen=True)
class MaskedInput:
    """A site's bits and numbers under their masks; without the masks they look random."""

    site: str
    bits: UInt32[np.ndarray, " block"]
    numbers: UInt64[np.ndarray, " n"]
    signature: bytes
    """A signature of the bits and of the names of the sites that they are masked with."""


@dataclass(frozen=True)
class MaskedBits:
    """The pieces of a masked input that the other sites are shown."""

    bits: UInt32[np.ndarray, " block"]
    signature: bytes


@dataclass(frozen=True)
class CountShares:
    """What one site gives in stage 4: shares of seeds for its peers, and shares of mask keys for the server.

    Of a site whose input came there is a share of the seed, of one whose input did not come a share of the key.
    """

    sealed: Mapping[str, bytes]
    """For each peer whose input came, what `count_shares.seal_shares` seals for it; the server cannot read it."""
    mask_keys: Mapping[str, bytes]
    """For each site whose input did not come, a share of its mask key."""


@dataclass(frozen=True)
class Evidence:
    """What one site counts from how many sites hold each block. Nobody but that site can."""

    bits: Mapping[str, MaskedBits]
    """The masked bits of every site whose input arrived."""
    sealed: Mapping[str, bytes]
    """What the peers that passed stage 4 sealed for this site: shares of the seeds of these bits' masks."""
    mask_keys: Mapping[str, bytes]
    """The mask keys of the sites that sent shares and whose input did not arrive."""


@dataclass(frozen=True)
class Unmasking:
    """What one site gives in stage 5."""

    block_keys: Mapping[str, bytes]
    """For each released block the key of this site's own mask."""
    input_seeds: Mapping[str, bytes]
    """For each site that is silent now a share of the seed of its masks."""


@dataclass(frozen=True)
class UnmaskedSum:
    """The sum over all sites whose input arrived."""

    values: Mapping[str, Int64[np.ndarray, " _"]]
    """The sum of every block that all sites released, in fixed point; the others have too few holders."""
