"""What sites and server give one another from stage 3 on, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt32, UInt64

from permmoe.federated.secure.masks import KEY_BYTES, SEED_BYTES, TAG_BYTES

SHARES_BYTES = KEY_BYTES + 2 * SEED_BYTES
"""What a site gives one keeper: shares of its mask key and of both seeds."""
SEALED_SHARES_BYTES = SHARES_BYTES + TAG_BYTES


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

    Of a site whose input came it gives a share of the seed, of one whose input did not come a share of the key.
    """

    keys: Mapping[str, bytes]
    """For each other site whose input came, sealed for it: the key that `seeds` are sealed with."""
    seeds: bytes
    """What `count_shares.seal_shares` seals for all of these alike; the server cannot read it."""
    mask_keys: Mapping[str, bytes]
    """Of the sites that it keeps shares for, for each whose input did not come a share of its mask key."""


@dataclass(frozen=True)
class Evidence:
    """What sites count from how many of them hold each block. Nobody can who lacks the keys to the seeds."""

    bits: Mapping[str, MaskedBits]
    """The masked bits of every site whose input arrived."""
    seeds: Mapping[str, bytes]
    """What the sites that passed stage 4 sealed: shares of the seeds of these bits' masks."""
    mask_keys: Mapping[str, bytes]
    """The mask keys of the sites that sent shares and whose input did not arrive."""


@dataclass(frozen=True)
class Unmasking:
    """What one site gives in stage 5."""

    block_keys: Mapping[str, bytes]
    """For each released block the key of this site's own mask."""
    input_seeds: Mapping[str, bytes]
    """Of the sites that it keeps shares for, for each that is silent now a share of the seed of its masks."""


@dataclass(frozen=True)
class UnmaskedSum:
    """The sum over all sites whose input arrived."""

    values: Mapping[str, Int64[np.ndarray, " _"]]
    """The sum of every block that all sites released, in fixed point; the others have too few holders."""
