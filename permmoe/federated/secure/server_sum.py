"""The server's side of one secure sum: it adds masked numbers, and unmasks the blocks that every site releases."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8, UInt64

from permmoe.federated.secure import masks
from permmoe.federated.secure.choices import Choices
from permmoe.federated.secure.count_shares import SEALED_KEY_BYTES, sealed_bytes
from permmoe.federated.secure.exchanged import CountShares, Evidence, MaskedBits, MaskedInput, UnmaskedSum, Unmasking
from permmoe.federated.secure.masked_vector import PAIR_NUMBERS, block_key, mask_key, masked_text, places
from permmoe.federated.secure.recovery import recover
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
    choices: Choices = field(init=False)
    """Whom the senders chose, once stage 2 is over."""
    bits: dict[str, MaskedBits] = field(default_factory=dict)
    total: UInt64[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0, np.uint64))
    counted: dict[str, CountShares] = field(default_factory=dict)
    _keys: UInt8[np.ndarray, "receiver sender byte"] | None = field(default=None, init=False)
    """The sealed keys of stage 4, sites in the order of their names; None until they are asked for."""

    def take_shares(self, site: str, sealed: Mapping[str, bytes]) -> None:
        """Stage 2's reply. Raises SecureSumRefused unless there is one for each other keeper that a site must have."""
        others = self.participants.numbers.keys() - {site}
        if not sealed.keys() <= others or len(sealed) != self.participants.neighbourhood.keepers - 1:
            raise SecureSumRefused("shares are missing, or for sites that are no participants")
        self.sealed[site] = sealed

    def close_shares(self, sites: Collection[str]) -> None:
        """The end of stage 2: these sites go on. Raises SecureSumRefused where too few keepers of one are left."""
        self.sealed = {site: self.sealed[site] for site in sites}
        self.choices = Choices.of(self.participants, self.sealed)
        self.require_keepers(sites, sites)

    def shares_for(self, site: str) -> dict[str, bytes]:
        """What the sites that chose this one sealed for it."""
        return {sender: self.sealed[sender][site] for sender in self.choices.kept_by(site) if sender != site}

    def take_input(self, masked: MaskedInput) -> None:
        """Stage 3's reply, added to the sum. Raises SecureSumRefused, and then nothing was added."""
        if masked.site in self.bits or masked.site not in self.sealed:
            raise SecureSumRefused("this site has sent its input, or did not share")
        if masked.numbers.shape != (sum(self.blocks.values()),) or masked.bits.shape != (len(self.blocks),):
            raise SecureSumRefused("the masked input has another shape than the study's")
        text = masked_text(self.choices, masked.site, masked.bits)
        if not is_signature_of(self.roster[masked.site], masked.signature, text):
            raise SecureSumRefused("the masked input is not signed by its site")
        if not len(self.total):
            self.total = np.zeros_like(masked.numbers)
        self.total += masked.numbers
        self.bits[masked.site] = MaskedBits(masked.bits, masked.signature)

    def take_count_shares(self, site: str, shares: CountShares) -> None:
        """Stage 4's reply. Raises SecureSumRefused."""
        kept = self.choices.kept_by(site)
        lost = {name for name in kept if name in self.sealed and name not in self.bits}
        if shares.keys.keys() != self.bits.keys() - {site} or shares.mask_keys.keys() != lost:
            raise SecureSumRefused("shares are missing, or of the wrong kind")
        if len(shares.seeds) != sealed_bytes(sum(name in self.bits for name in kept)):
            raise SecureSumRefused("sealed shares are missing")
        _require_length(shares.keys, SEALED_KEY_BYTES)
        _require_length(shares.mask_keys, masks.KEY_BYTES)
        self.counted[site], self._keys = shares, None

    @property
    def lost(self) -> tuple[str, ...]:
        """Sites that shared and whose input did not come."""
        return tuple(name for name in self.sealed if name not in self.bits)

    def lost_keys(self) -> dict[str, bytes]:
        """The mask keys of lost sites, from stage 4's shares. Raises SecureSumRefused where these are too few."""
        self.require_keepers(self.bits, self.counted)
        shares = {
            name: {
                site: self.counted[site].mask_keys[name]
                for site in self.choices.keepers_of(name)
                if site in self.counted
            }
            for name in self.lost
        }
        return recover(shares, self.participants)

    def evidence(self, lost_keys: Mapping[str, bytes]) -> Evidence:
        """What every site counts holders from."""
        return Evidence(dict(self.bits), {site: shares.seeds for site, shares in self.counted.items()}, lost_keys)

    def keys_for(self, site: str) -> bytes:
        """The keys to the evidence's seeds, as the others sealed them for this site: one after another, in the order of
        the others' names."""
        if self._keys is None:
            self._keys = self._by_receiver()
        is_other = [sender != site for sender in sorted(self.counted)]
        return self._keys[sorted(self.bits).index(site), is_other].tobytes()

    def _by_receiver(self) -> UInt8[np.ndarray, "receiver sender byte"]:
        """The keys that each site is to be given, together: to look for one in what each sender gave takes a second
        where a thousand sites take part."""
        receivers, none = sorted(self.bits), bytes(SEALED_KEY_BYTES)
        rows = (
            b"".join([self.counted[sender].keys.get(name, none) for name in receivers])
            for sender in sorted(self.counted)
        )
        table = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, len(receivers), SEALED_KEY_BYTES)
        return np.ascontiguousarray(table.transpose(1, 0, 2))

    def check_unmasking(self, site: str, unmasking: Unmasking, silent: Collection[str]) -> None:
        """Check stage 5's reply of one site by itself. Raises SecureSumRefused."""
        kept = set(self.choices.kept_by(site)) & set(silent)
        if not set(unmasking.block_keys) <= set(self.blocks) or set(unmasking.input_seeds) != kept:
            raise SecureSumRefused("keys of unknown blocks, or shares of other sites than the silent ones")
        _require_length(unmasking.block_keys, masks.KEY_BYTES)
        _require_length(unmasking.input_seeds, masks.SEED_BYTES)

    def require_keepers(self, sites: Collection[str], left: Collection[str]) -> None:
        """Raises SecureSumRefused where so few sites, or keepers of one of these sites, are left that the sum fails."""
        if len(left) < self.participants.quorum:
            raise SecureSumRefused(f"{len(left)} sites are left of the {self.participants.quorum} that it takes")
        fewest, t = self.choices.fewest_keepers(sites, left), self.participants.neighbourhood.threshold
        if fewest < t:
            raise SecureSumRefused(f"{fewest} keepers of a site are left of the {t} that it takes")

    def unmask(
        self,
        lost_keys: Mapping[str, bytes],
        unmaskings: Mapping[str, Unmasking],
        silent: Collection[str],
        threads: int = 1,
    ) -> UnmaskedSum:
        """The sums of the blocks that every site released.

        `unmaskings` of every site that is not silent; `threads` make masks. Raises SecureSumRefused where they do not
        fit together.
        """
        salt = self.participants.session.digest()
        if {*unmaskings, *silent} != set(self.bits):
            raise SecureSumRefused("unmaskings are not of the sites whose input came")
        seeds = self._silent_seeds(unmaskings, silent)
        pairs = self._lost_pairs(lost_keys)
        # A site's own policy may be stricter than the study's: a block that one site withholds stays masked.
        released = {
            name: place
            for name, place in places(self.blocks).items()
            if all(name in unmasking.block_keys for unmasking in unmaskings.values())
        }
        masks.add_masks(self.total, pairs, threads)
        for block, place in released.items():
            own = [
                *(u.block_keys[block] for u in unmaskings.values()),
                *(block_key(s, salt, block) for s in seeds.values()),
            ]
            masks.add_masks(self.total[place], [(key, False) for key in own], threads)
        return UnmaskedSum({name: self.total[place].view(np.int64) for name, place in released.items()})

    def _silent_seeds(self, unmaskings: Mapping[str, Unmasking], silent: Collection[str]) -> dict[str, bytes]:
        shares = {
            name: {
                site: unmaskings[site].input_seeds[name] for site in self.choices.keepers_of(name) if site in unmaskings
            }
            for name in silent
        }
        seeds = recover(shares, self.participants)
        for name, seed in seeds.items():
            if hashlib.sha256(seed).digest() != self.participants[name].input_commitment:
                raise SecureSumRefused("the seed of a silent site is not the one that it committed to")
        return seeds

    def _lost_pairs(self, lost_keys: Mapping[str, bytes]) -> list[tuple[bytes, bool]]:
        """The keys of the masks that sites in the sum have for lost ones, and whether they are to be added."""
        salt, found = self.participants.session.digest(), list[tuple[bytes, bool]]()
        for name in self.lost:
            key = mask_key(lost_keys[name], self.participants[name])
            for other in self.choices.peers_of(name):
                if other in self.bits:
                    pair = masks.agree(key, self.participants[other].mask_key)
                    found.append((masks.derive(pair, salt, PAIR_NUMBERS), not other < name))
        return found


def _require_length(secrets: Mapping[str, bytes], length: int) -> None:
    # What has another length would raise where all sites' are put together, and be the failure of all.
    if not {*map(len, secrets.values())} <= {length}:
        raise SecureSumRefused("a key or a share has the wrong length")
