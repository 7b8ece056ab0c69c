"""Shares of the seeds that mask the sites' bits, from site to site: sealed, so that the server cannot count holders.

A site seals the shares that it keeps once, for all other sites alike, and the key to them for each of these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from permmoe.federated.secure import masks
from permmoe.federated.secure.choices import Choices
from permmoe.federated.secure.recovery import recover
from permmoe.federated.secure.session import Participants, SecureSumRefused

SEALED_KEY_BYTES = masks.KEY_BYTES + masks.TAG_BYTES


def context_of(choices: Choices, arrived: Sequence[str]) -> bytes:
    """What is sealed is bound to: the choices, and the sites whose input is said to have come, in order.

    A peer that was told of other sites has sealed its key for another context, and it cannot be unsealed.
    """
    return choices.digest + hashlib.sha256("\0".join(arrived).encode()).digest()


def sealed_bytes(n_shares: int) -> int:
    """How long so many sealed shares are."""
    return masks.SEED_BYTES * n_shares + masks.TAG_BYTES


def seal_shares(key: bytes, shares: Mapping[str, bytes], context: bytes) -> bytes:
    """A site's shares of the seeds, in the order of the sites' names. The key is used for this alone."""
    return masks.seal(key, b"".join(shares[name] for name in sorted(shares)), context)


def unseal_shares(key: bytes, sealed: bytes, context: bytes, kept: Sequence[str]) -> dict[str, bytes] | None:
    """A peer's share of each site's seed; None for what was not sealed with this key in this context.

    `kept`: the sites whose shares it keeps, in the order of their names.
    """
    packed, size = masks.unseal(key, sealed, context), masks.SEED_BYTES
    if packed is None or len(packed) != size * len(kept):
        return None
    return {name: packed[i * size : (i + 1) * size] for i, name in enumerate(kept)}


def recover_seeds(
    shares: Mapping[str, Mapping[str, bytes]], participants: Participants, arrived: Sequence[str]
) -> dict[str, bytes]:
    """The seed of each arrived site. `shares`: sharing site -> seed's site -> share.

    Raises SecureSumRefused where shares are too few, or a seed is not the one that its site committed to.
    """
    of_seed: dict[str, dict[str, bytes]] = {name: {} for name in arrived}
    for keeper, kept in shares.items():
        for name, share in kept.items():
            of_seed[name][keeper] = share
    seeds = recover(of_seed, participants)
    for name, seed in seeds.items():
        # "Seeds are those that the sites committed to": a wrong share, or one of another seed, shows here.
        if hashlib.sha256(seed).digest() != participants[name].count_commitment:
            raise SecureSumRefused(f"the seed of {name} is not the one that it committed to")
    return seeds
