"""The vector of all blocks' numbers, the masks on it, and what a site signs of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from jaxtyping import Int64, UInt32, UInt64

from permmoe.federated.fixed_point import LARGEST
from permmoe.federated.secure import masks
from permmoe.federated.secure.choices import Choices
from permmoe.federated.secure.session import Advertisement, Blocks, SecureSumRefused
from permmoe.federated.secure.signatures import MASKED

PAIR_BITS, PAIR_NUMBERS = "pair bits", "pair numbers"
"""What the keys of a pair's two masks are derived for."""


def places(blocks: Blocks) -> dict[str, slice]:
    """Where each block stands in the vector of numbers."""
    ends = np.cumsum(list(blocks.values())).tolist()
    return {name: slice(end - size, end) for (name, size), end in zip(blocks.items(), ends, strict=True)}


def block_key(seed: bytes, salt: bytes, block: str) -> bytes:
    """The key of the mask that a site's seed gives a block of numbers."""
    return masks.derive(seed, salt, f"numbers\0{block}")


def add_pairs(
    pairs: Sequence[tuple[bytes, bool]],
    salt: bytes,
    bits: UInt32[np.ndarray, " block"],
    numbers: UInt64[np.ndarray, " n"],
) -> None:
    """Add the masks that pairs of sites agree on, or take them away, as stands beside the secret of each pair."""
    for vector, purpose in ((bits, PAIR_BITS), (numbers, PAIR_NUMBERS)):
        masks.add_masks(vector, [(masks.derive(pair, salt, purpose), is_added) for pair, is_added in pairs])


def within_range(values: Int64[np.ndarray, " _"], n_sites: int) -> Int64[np.ndarray, " _"]:
    """The values, unless as many sites with values as large could overflow the sum: then SecureSumRefused is raised."""
    # "A sum that would wrap around is an error, never silent": each site keeps to its part of the range.
    largest = LARGEST // n_sites
    if len(values) and (int(values.max()) > largest or int(values.min()) < -largest):
        raise SecureSumRefused(f"a value is too large to be summed over {n_sites} sites without wrapping around")
    return values


def mask_key(secret: bytes, advertised: Advertisement) -> X25519PrivateKey:
    """A lost site's mask key from its secret. Raises SecureSumRefused unless it is the advertised one."""
    key = X25519PrivateKey.from_private_bytes(secret)
    if masks.public_bytes(key) != advertised.mask_key:
        raise SecureSumRefused(f"the mask key of {advertised.site} is not the one that it advertised")
    return key


def masked_text(choices: Choices, site: str, bits: UInt32[np.ndarray, " block"]) -> bytes:
    """What a site signs of its input: the participants, who chose whom, its own name, and the masked bits."""
    return MASKED + choices.digest + site.encode() + b"\0" + bits.tobytes()
