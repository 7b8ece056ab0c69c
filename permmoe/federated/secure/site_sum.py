"""A site's side of one secure sum: it refuses what a lying server might ask, each rule beside its check."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from jaxtyping import Int64

from permmoe.federated.release_account import ReleaseAccount
from permmoe.federated.secure import masks
from permmoe.federated.secure.count_shares import context_of, recover_seeds, seal_shares, unseal_shares
from permmoe.federated.secure.counting import count_holders
from permmoe.federated.secure.exchanged import CountShares, Evidence, MaskedInput, Unmasking
from permmoe.federated.secure.masked_vector import add_pair, block_key, masked_text, places, within_range
from permmoe.federated.secure.session import (
    Advertisement,
    Blocks,
    Participants,
    SecureSumRefused,
    Session,
    SiteKeys,
    threshold,
)
from permmoe.federated.secure.signatures import ADVERTISED, sign


@dataclass(frozen=True)
class Rules:
    """What a site insists on: the stricter of its own policy and the study's."""

    threshold_share: float = 2 / 3
    min_sites: int = 3
    """A sum over fewer is refused at every stage."""
    min_holders: int = 3
    """A block that fewer hold is not released: the sum would be close to one site's own."""
    min_cohort_difference: int = 2
    """Sums that differ by fewer sites are refused, since the difference is close to one site's own numbers."""


@dataclass
class _Shares:
    """A peer's shares, as this site holds them."""

    mask_key: bytes
    count_seed: bytes
    input_seed: bytes

    @classmethod
    def unpack(cls, packed: bytes) -> _Shares:
        ends = (masks.KEY_BYTES, masks.KEY_BYTES + masks.SEED_BYTES)
        return cls(packed[: ends[0]], packed[ends[0] : ends[1]], packed[ends[1] :])


SHARES_BYTES = masks.KEY_BYTES + 2 * masks.SEED_BYTES
COUNTS = "count shares"
"""The label of the channel for what sites send one another in stage 4."""


class SiteSum:
    """A site's side of one session. Each method is a stage, can be called once (`unmask` again as more sites go
    silent), and keeps the rules. Every method raises SecureSumRefused where a request or a message breaks one.
    """

    def __init__(
        self,
        session: Session,
        site: str,
        key: ec.EllipticCurvePrivateKey,
        roster: SiteKeys,
        rules: Rules,
        blocks: Blocks,
        account: ReleaseAccount | None = None,
    ) -> None:
        """`account`: the sums that this site knows of, whatever they were of; none where it is the study's first."""
        self._session, self._site, self._key, self._roster, self._rules = session, site, key, roster, rules
        self._blocks, self._account = blocks, account or ReleaseAccount()
        self._channel, self._mask = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._count_seed, self._input_seed = (secrets.token_bytes(masks.SEED_BYTES) for _ in range(2))
        self._stage = 0
        self._participants = Participants(session, (), 0)
        self._shares: dict[str, _Shares] = {}
        self._arrived: tuple[str, ...] = ()
        self._silent: set[str] = set()
        self._evidence: Evidence | None = None

    @property
    def session(self) -> Session:
        """Which sum this is."""
        return self._session

    @property
    def arrived(self) -> tuple[str, ...]:
        """From stage 4 on the sites whose input is in the sum, in the order of their names."""
        return self._arrived

    def advertise(self) -> Advertisement:
        """Stage 1."""
        self._enter(1)
        unsigned = Advertisement(
            self._site,
            masks.public_bytes(self._channel),
            masks.public_bytes(self._mask),
            hashlib.sha256(self._count_seed).digest(),
            hashlib.sha256(self._input_seed).digest(),
        )
        return replace(unsigned, signature=sign(self._key, ADVERTISED + self._session.digest() + unsigned.content()))

    def share(self, sites: Sequence[Advertisement], t: int) -> dict[str, bytes]:
        """Stage 2: sealed shares for every other participant. `sites` are the participants, who are checked here."""
        self._enter(2)
        names = [site.site for site in sites]
        # "No site takes part twice, and this site takes part with its own keys."
        if len(set(names)) < len(names):
            raise SecureSumRefused("a site stands twice among the participants")
        # "A sum over fewer than min_sites sites is refused."
        if len(names) < self._rules.min_sites:
            raise SecureSumRefused(
                f"{len(names)} sites take part; this site takes part in sums of {self._rules.min_sites} or more"
            )
        # "t and n are as in the site's own rules."
        if t != threshold(self._rules.threshold_share, len(names)):
            raise SecureSumRefused(f"t = {t} of {len(names)} sites is not this site's threshold")
        # Here already: once its input is given, t other sites can unmask a sum that this one refuses.
        self._require_difference(names)
        for site in sites:
            # "Every peer is in the signed roster, and its keys are signed with the key that stands there."
            if site.site not in self._roster:
                raise SecureSumRefused("a participant is not in the roster")
            if not site.is_signed(self._session, self._roster[site.site]):
                raise SecureSumRefused(f"the keys of {site.site} are not signed by that site for this session")
        participants = Participants.of(self._session, sites, t)
        if self._site not in names or participants[self._site].mask_key != masks.public_bytes(self._mask):
            raise SecureSumRefused("the participants' keys do not include this site's own keys")
        self._participants = participants
        secret = masks.private_bytes(self._mask) + self._count_seed + self._input_seed
        sealed: dict[str, bytes] = {}
        for name, share in zip(participants.names, masks.split(secret, t, len(names)), strict=True):
            if name == self._site:
                self._shares[name] = _Shares.unpack(share)
            else:
                sealed[name] = masks.seal(self._channel_to(name, self._site, name), share, participants.digest())
        return sealed

    def mask(self, sealed: Mapping[str, bytes], values: Mapping[str, Int64[np.ndarray, " _"]]) -> MaskedInput:
        """Stage 3: the masked input.

        `values` are the blocks that this site holds, in fixed point; `sealed` the shares that others sealed for it.
        """
        self._enter(3)
        peers = sorted(set(sealed) - {self._site})
        if not set(peers) <= set(self._participants.names):
            raise SecureSumRefused("shares came from a site that is not a participant")
        self._require_enough(len(peers) + 1)
        self._require_difference([*peers, self._site])
        for name in peers:
            share = masks.unseal(self._channel_to(name, name, self._site), sealed[name], self._participants.digest())
            # "Shares are for these participants": a peer that was sent others would have sealed its shares for those.
            if share is None or len(share) != SHARES_BYTES:
                raise SecureSumRefused(f"the shares from {name} were not sealed for this site and these participants")
            self._shares[name] = _Shares.unpack(share)
        bits = np.array([name in values for name in self._blocks], np.uint32)
        numbers = np.zeros(sum(self._blocks.values()), np.uint64)
        for name, place in places(self._blocks).items():
            if name in values:
                numbers[place] = within_range(values[name], len(self._participants.names)).view(np.uint64)
        salt = self._session.digest()
        masks.add_mask(bits, masks.derive(self._count_seed, salt, "bits"))
        for name, place in places(self._blocks).items():
            masks.add_mask(numbers[place], block_key(self._input_seed, salt, name))
        for name in peers:
            pair = masks.agree(self._mask, self._participants[name].mask_key)
            add_pair(pair, salt, bits, numbers, is_added=self._site < name)
        signature = sign(self._key, masked_text(self._participants, [*peers, self._site], self._site, bits))
        return MaskedInput(self._site, bits, numbers, signature)

    def count(self, arrived: Collection[str]) -> CountShares:
        """Stage 4: `arrived` are the sites whose masked input came."""
        self._enter(4)
        # "One share of one kind for each peer": the two sets below do not meet, and this stage is passed once.
        if not set(arrived) <= set(self._shares) or self._site not in arrived:
            raise SecureSumRefused("the sites said to have sent their input are not those that shared")
        self._require_enough(len(set(arrived)))
        self._require_difference(arrived)
        self._arrived = tuple(sorted(set(arrived)))
        lost = sorted(set(self._shares) - set(arrived))
        context, seeds = context_of(self._participants, self._arrived), self._count_shares()
        # "The server cannot count holders": shares of seeds are for the other sites alone.
        sealed = {
            name: seal_shares(self._channel_to(name, self._site, name, COUNTS), seeds, context)
            for name in self._arrived
            if name != self._site
        }
        return CountShares(sealed, {name: self._shares[name].mask_key for name in lost})

    def unmask(self, evidence: Evidence, silent: Collection[str] = ()) -> Unmasking:
        """Stage 5: the masks of released blocks, once the evidence is checked; `silent` may grow from call to call."""
        if self._stage != 4:
            raise SecureSumRefused(f"stage 5 was asked for after stage {self._stage}")
        if self._evidence is not None and not _is_same(evidence, self._evidence):
            raise SecureSumRefused("the evidence of this session has changed")
        # "The count is over exactly the sites that stage 4 was about."
        if tuple(sorted(evidence.bits)) != self._arrived:
            raise SecureSumRefused("the evidence is about other sites than those whose input came")
        shared = tuple(sorted(self._shares))
        seeds = self._recovered_seeds(evidence)
        counts = count_holders(evidence, seeds, self._participants, shared, self._blocks, self._roster)
        all_silent = self._silent | set(silent)
        # "At most |arrived| - t sites are silent": more, and the server could gather every site's seed piece by piece.
        if not all_silent <= set(self._arrived) or self._site in all_silent:
            raise SecureSumRefused("a site said to be silent is this one, or sent no input")
        if len(all_silent) > len(self._arrived) - self._participants.threshold:
            raise SecureSumRefused(f"{len(all_silent)} sites are said to be silent; too few are left")
        self._evidence, self._silent = evidence, all_silent
        salt = self._session.digest()
        # "A block that fewer than min_holders sites hold is not released."
        released = [name for name in self._blocks if counts[name] >= self._rules.min_holders]
        return Unmasking(
            {name: block_key(self._input_seed, salt, name) for name in released},
            {name: self._shares[name].input_seed for name in sorted(silent)},
        )

    def _enter(self, stage: int) -> None:
        # "Each stage once, in order": a server that asks twice wants to compare the answers.
        if self._stage != stage - 1:
            raise SecureSumRefused(f"stage {stage} was asked for after stage {self._stage}")
        self._stage = stage

    def _require_enough(self, n_sites: int) -> None:
        least = max(self._participants.threshold, self._rules.min_sites)
        if n_sites < least:
            raise SecureSumRefused(f"{n_sites} sites are left; this site goes on with {least} or more")

    def _require_difference(self, names: Collection[str]) -> None:
        # "Sums differ by min_cohort_difference sites or more, or by none": what they differ by is a sum too. No other
        # combination of them tells about fewer either (permmoe.federated.release_account).
        if not self._account.admits(dict.fromkeys(names, 1), self._rules.min_cohort_difference):
            raise SecureSumRefused(
                f"with the study's earlier sums, this one would tell about fewer than "
                f"{self._rules.min_cohort_difference} sites by subtraction"
            )

    def _count_shares(self) -> dict[str, bytes]:
        """This site's shares of the seeds of all bits that came."""
        return {name: self._shares[name].count_seed for name in self._arrived}

    def _recovered_seeds(self, evidence: Evidence) -> dict[str, bytes]:
        """The seeds of all bits that came, from this site's own shares and those that its peers sealed for it."""
        context, shares = context_of(self._participants, self._arrived), {self._site: self._count_shares()}
        for name, sealed in evidence.sealed.items():
            if name not in self._arrived or name == self._site:
                raise SecureSumRefused("shares of seeds came from a site that sent no input, or from this one")
            of_peer = unseal_shares(self._channel_to(name, name, self._site, COUNTS), sealed, context, self._arrived)
            # "All sites were told of the same inputs": a peer that was told of others sealed its shares for those.
            if of_peer is None:
                raise SecureSumRefused(f"the shares of {name} were not sealed for this site and these inputs")
            shares[name] = of_peer
        return recover_seeds(shares, self._participants)

    def _channel_to(self, peer: str, sender: str, receiver: str, label: str = "shares") -> bytes:
        """The key of one message from a participant to another; no two messages have the same label and direction."""
        secret = masks.agree(self._channel, self._participants[peer].channel_key)
        return masks.derive(secret, self._session.digest(), f"{label}\0{sender}\0{receiver}")


def _is_same(one: Evidence, other: Evidence) -> bool:
    return (
        one.sealed == other.sealed
        and one.mask_keys == other.mask_keys
        and all(np.array_equal(one.bits[name].bits, other.bits[name].bits) for name in one.bits)
    )
