"""The server's side of one secure sum: it adds masked numbers, and unmasks the blocks that every site releases."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt64

from permmoe.federated.secure import masks
from permmoe.federated.secure.exchanged import CountShares, Evidence, MaskedBits, MaskedInput, UnmaskedSum, Unmasking
from permmoe.federated.secure.masked_vector import block_key, mask_key, masked_text, places
from permmoe.federated.secure.session import Blocks, Participants, SecureSumRefused, SiteKeys
from permmoe.federated.secure.signatures import is_signature_of


@dataclass
class ServerSum:
    """What the server knows of one session so far. It keeps one vector of numbers, however many sites take part."""

    participants: Participants
    blocks: Blocks
    roster: SiteKeys
    sealed: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    """Sender -> receiver -> shares that the server cannot read."""
    bits: dict[str, MaskedBits] = field(default_factory=dict)
    total: UInt64[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0, np.uint64))
    counted: dict[str, CountShares] = field(default_factory=dict)

    def take_shares(self, site: str, sealed: Mapping[str, bytes]) -> None:
        """Stage 2's reply. Raises SecureSumRefused unless there is one for every other site."""
        if set(sealed) != set(self.participants.names) - {site}:
            raise SecureSumRefused("shares are missing, or for sites that are no participants")
        self.sealed[site] = sealed

    def shares_for(self, site: str) -> dict[str, bytes]:
        """What the others sealed for a site."""
        return {sender: sealed[site] for sender, sealed in self.sealed.items() if sender != site}

    def take_input(self, masked: MaskedInput) -> None:
        """Stage 3's reply, added to the sum. Raises SecureSumRefused, and then nothing was added."""
        if masked.site in self.bits or masked.site not in self.sealed:
            raise SecureSumRefused("this site has sent its input, or did not share")
        if masked.numbers.shape != (sum(self.blocks.values()),) or masked.bits.shape != (len(self.blocks),):
            raise SecureSumRefused("the masked input has another shape than the study's")
        text = masked_text(self.participants, self.sealed, masked.site, masked.bits)
        if not is_signature_of(self.roster[masked.site], masked.signature, text):
            raise SecureSumRefused("the masked input is not signed by its site")
        if not len(self.total):
            self.total = np.zeros_like(masked.numbers)
        self.total += masked.numbers
        self.bits[masked.site] = MaskedBits(masked.bits, masked.signature)

    def take_count_shares(self, site: str, shares: CountShares) -> None:
        """Stage 4's reply. Raises SecureSumRefused."""
        if set(shares.sealed) != set(self.bits) - {site} or set(shares.mask_keys) != set(self.lost):
            raise SecureSumRefused("shares are missing, or of the wrong kind")
        _require_length(shares.mask_keys, masks.KEY_BYTES)
        self.counted[site] = shares

    @property
    def lost(self) -> tuple[str, ...]:
        """Sites that shared and whose input did not come."""
        return tuple(name for name in self.sealed if name not in self.bits)

    def lost_keys(self) -> dict[str, bytes]:
        """The mask keys of lost sites, from stage 4's shares. Raises SecureSumRefused where these are too few."""
        self._require_enough(len(self.counted))
        return {name: self._recover({s: c.mask_keys[name] for s, c in self.counted.items()}) for name in self.lost}

    def evidence_for(self, site: str, lost_keys: Mapping[str, bytes]) -> Evidence:
        """What a site counts holders from."""
        sealed = {sender: shares.sealed[site] for sender, shares in self.counted.items() if sender != site}
        return Evidence(dict(self.bits), sealed, lost_keys)

    def check_unmasking(self, unmasking: Unmasking, silent: Collection[str]) -> None:
        """Check stage 5's reply of one site by itself. Raises SecureSumRefused."""
        if not set(unmasking.block_keys) <= set(self.blocks) or set(unmasking.input_seeds) != set(silent):
            raise SecureSumRefused("keys of unknown blocks, or shares of other sites than the silent ones")
        _require_length(unmasking.block_keys, masks.KEY_BYTES)
        _require_length(unmasking.input_seeds, masks.SEED_BYTES)

    def unmask(
        self, lost_keys: Mapping[str, bytes], unmaskings: Mapping[str, Unmasking], silent: Collection[str]
    ) -> UnmaskedSum:
        """The sums of the blocks that every site released.

        `unmaskings` of every site that is not silent. Raises SecureSumRefused where they do not fit together.
        """
        salt = self.participants.session.digest()
        keys: dict[str, Mapping[str, bytes]] = {site: unmasking.block_keys for site, unmasking in unmaskings.items()}
        # A site's own policy may be stricter than the study's: a block that one site withholds stays masked.
        released = {
            name: place
            for name, place in places(self.blocks).items()
            if all(name in of_site for of_site in keys.values())
        }
        for name in silent:
            seed = self._recover({site: unmasking.input_seeds[name] for site, unmasking in unmaskings.items()})
            if hashlib.sha256(seed).digest() != self.participants[name].input_commitment:
                raise SecureSumRefused("the seed of a silent site is not the one that it committed to")
            keys[name] = {block: block_key(seed, salt, block) for block in released}
        if set(keys) != set(self.bits):
            raise SecureSumRefused("unmaskings are not of the sites whose input came")
        for name in self.lost:
            key = mask_key(lost_keys[name], self.participants[name])
            for other in self.bits:
                pair = masks.derive(masks.agree(key, self.participants[other].mask_key), salt, "pair numbers")
                masks.add_mask(self.total, pair, is_added=not other < name)
        for of_site in keys.values():
            for block, place in released.items():
                masks.add_mask(self.total[place], of_site[block], is_added=False)
        return UnmaskedSum({name: self.total[place].view(np.int64) for name, place in released.items()})

    def _require_enough(self, n_sites: int) -> None:
        if n_sites < self.participants.threshold:
            raise SecureSumRefused(f"{n_sites} sites are left of the {self.participants.threshold} that it takes")

    def _recover(self, shares: Mapping[str, bytes]) -> bytes:
        self._require_enough(len(shares))
        numbers = {self.participants.names.index(site) + 1: share for site, share in sorted(shares.items())}
        return masks.combine(dict(list(numbers.items())[: self.participants.threshold]))


def _require_length(secrets: Mapping[str, bytes], length: int) -> None:
    # What has another length would raise where all sites' are put together, and be the failure of all.
    if any(len(secret) != length for secret in secrets.values()):
        raise SecureSumRefused("a key or a share has the wrong length")
