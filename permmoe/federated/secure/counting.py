"""How many sites hold each block, counted from what they signed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from permmoe.federated.secure import masks
from permmoe.federated.secure.choices import Choices
from permmoe.federated.secure.exchanged import Evidence
from permmoe.federated.secure.masked_vector import PAIR_BITS, mask_key, masked_text
from permmoe.federated.secure.session import Blocks, SecureSumRefused, SiteKeys
from permmoe.federated.secure.signatures import is_signature_of


def count_holders(
    evidence: Evidence, seeds: Mapping[str, bytes], choices: Choices, blocks: Blocks, roster: SiteKeys
) -> dict[str, int]:
    """How many sites hold each block, from what they signed. Each site counts for itself; the server lacks the seeds.

    `seeds`: of the arrived sites' bits' masks, found to be those that the sites committed to. Raises SecureSumRefused
    for evidence that is not what the sites sent.
    """
    participants = choices.participants
    arrived, lost = sorted(evidence.bits), sorted(set(choices.shared) - set(evidence.bits))
    if sorted(seeds) != arrived or sorted(evidence.mask_keys) != lost:
        raise SecureSumRefused("the evidence is not complete")
    salt = participants.session.digest()
    total = np.zeros(len(blocks), np.uint32)
    for name in arrived:
        masked = evidence.bits[name]
        # "Bits are those that the site signed, and all sites were told of the same keepers."
        if masked.bits.shape != total.shape or not is_signature_of(
            roster[name], masked.signature, masked_text(choices, name, masked.bits)
        ):
            raise SecureSumRefused(f"the bits of {name} are not those that it signed")
        total += masked.bits
        masks.add_mask(total, masks.derive(seeds[name], salt, "bits"), is_added=False)
    pairs = list[tuple[bytes, bool]]()
    for name in lost:
        # "The mask key of a lost site is the one that it advertised."
        key = mask_key(evidence.mask_keys[name], participants[name])
        for other in choices.peers_of(name):
            if other in evidence.bits:
                pair = masks.agree(key, participants[other].mask_key)
                # What `other` added or took away for the pair.
                pairs.append((masks.derive(pair, salt, PAIR_BITS), not other < name))
    masks.add_masks(total, pairs)
    # "A count is a number of sites."
    if int(total.max(initial=0)) > len(arrived):
        raise SecureSumRefused("a block has more holders than sites; somebody's bits are no bits")
    return dict(zip(blocks, total.tolist(), strict=True))
