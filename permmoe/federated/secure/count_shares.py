"""Shares of the seeds that mask the sites' bits, from site to site: sealed, so that the server cannot count holders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from permmoe.federated.secure import masks
from permmoe.federated.secure.session import Participants, SecureSumRefused


def context_of(participants: Participants, arrived: Sequence[str]) -> bytes:
    """What sealed shares are bound to: the participants, and the sites whose input is said to have come, in order.

    A peer that was told of other sites has sealed its shares for another context, and they cannot be unsealed.
    """
    return participants.digest() + hashlib.sha256("\0".join(arrived).encode()).digest()


def seal_shares(key: bytes, shares: Mapping[str, bytes], context: bytes) -> bytes:
    """A site's shares of the seeds, in the order of the sites' names, for one peer. The key is used for this alone."""
    return masks.seal(key, b"".join(shares[name] for name in sorted(shares)), context)


def unseal_shares(key: bytes, sealed: bytes, context: bytes, arrived: Sequence[str]) -> dict[str, bytes] | None:
    """A peer's share of each site's seed; None for what was not sealed with this key in this context."""
    packed = masks.unseal(key, sealed, context)
    size = masks.SEED_BYTES
    if packed is None or len(packed) != size * len(arrived):
        return None
    return {name: packed[i * size : (i + 1) * size] for i, name in enumerate(arrived)}


def recover_seeds(shares: Mapping[str, Mapping[str, bytes]], participants: Participants) -> dict[str, bytes]:
    """The seed of each site from t sites' shares. `shares`: sharing site -> seed's site -> share.

    Raises SecureSumRefused where shares are too few, or a seed is not the one that its site committed to.
    """
    t = participants.threshold
    if len(shares) < t:
        raise SecureSumRefused(f"{len(shares)} sites gave shares of the seeds, of the {t} that it takes")
    chosen = {participants.names.index(site) + 1: shares[site] for site in sorted(shares)[:t]}
    seeds: dict[str, bytes] = {}
    for name in next(iter(chosen.values())):
        seeds[name] = masks.combine({number: of_site[name] for number, of_site in chosen.items()})
        # "Seeds are those that the sites committed to": a wrong share, or one of another seed, shows here.
        if hashlib.sha256(seeds[name]).digest() != participants[name].count_commitment:
            raise SecureSumRefused(f"the seed of {name} is not the one that it committed to")
    return seeds
