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
from permmoe.federated.secure import masks, shamir
from permmoe.federated.secure.choices import Choices, choose_keepers
from permmoe.federated.secure.count_shares import context_of, recover_seeds, seal_shares, unseal_shares
from permmoe.federated.secure.counting import count_holders
from permmoe.federated.secure.exchanged import SHARES_BYTES, CountShares, Evidence, MaskedInput, Unmasking
from permmoe.federated.secure.masked_vector import add_pairs, block_key, masked_text, places, within_range
from permmoe.federated.secure.session import (
    Advertisement,
    Blocks,
    Participants,
    SecureSumRefused,
    Session,
    SiteKeys,
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


COUNTS = "count shares"
"""The label of the channel for what sites send one another in stage 4."""


class SiteSum:
    """A site's side of one session. Each method is a stage, or a part of one, can be called once (`unmask` again as
    more sites go silent), and keeps the rules. Every method raises SecureSumRefused where a request or a message breaks
    one.
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
        self._participants = Participants.of(session, (), rules.threshold_share)
        self._keepers: tuple[str, ...] = ()
        self._choices = Choices.of(self._participants, {})
        self._shares: dict[str, _Shares] = {}
        self._secrets: dict[str, bytes] = {}
        self._arrived: tuple[str, ...] = ()
        self._seeds_key = secrets.token_bytes(masks.KEY_BYTES)
        self._holders: Mapping[str, int] | None = None
        self._silent: set[str] = set()

    @property
    def session(self) -> Session:
        """Which sum this is."""
        return self._session

    @property
    def site(self) -> str:
        """This site's name."""
        return self._site

    @property
    def participants(self) -> Participants:
        """From stage 2 on the sites of the session."""
        return self._participants

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

    def share(self, sites: Sequence[Advertisement]) -> dict[str, bytes]:
        """Stage 2: sealed shares for the other keepers, whom this site chooses. `sites` are the participants, who are
        checked here."""
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
        # Here already: once its input is given, the other sites can unmask a sum that this one refuses.
        self._require_difference(names)
        for site in sites:
            # "Every peer is in the signed roster, and its keys are signed with the key that stands there."
            if site.site not in self._roster:
                raise SecureSumRefused("a participant is not in the roster")
            if not site.is_signed(self._session, self._roster[site.site]):
                raise SecureSumRefused(f"the keys of {site.site} are not signed by that site for this session")
        # "Quorum, keepers and threshold are as this site's own rules say": nobody is asked for them.
        participants = Participants.of(self._session, sites, self._rules.threshold_share)
        if self._site not in names or participants[self._site].mask_key != masks.public_bytes(self._mask):
            raise SecureSumRefused("the participants' keys do not include this site's own keys")
        self._participants, self._keepers = participants, choose_keepers(participants, self._site)
        secret = masks.private_bytes(self._mask) + self._count_seed + self._input_seed
        numbers = [participants.numbers[name] for name in self._keepers]
        shares = dict(
            zip(self._keepers, shamir.split(secret, participants.neighbourhood.threshold, numbers), strict=True)
        )
        self._shares[self._site] = _Shares.unpack(shares.pop(self._site))
        return {
            name: masks.seal(self._channel_to(name, self._site, name), share, participants.digest)
            for name, share in shares.items()
        }

    def mask(
        self, sealed: Mapping[str, bytes], choices: Choices, values: Mapping[str, Int64[np.ndarray, " _"]]
    ) -> MaskedInput:
        """Stage 3: the masked input.

        `values` are the blocks that this site holds, in fixed point; `sealed` the shares that others sealed for it, and
        `choices` whom each site is said to have chosen.
        """
        self._enter(3)
        # "Shares are of exactly the sites that are said to have chosen this one, and it chose whom it is said to have."
        if choices.participants.digest != self._participants.digest or choices.keepers_of(self._site) != self._keepers:
            raise SecureSumRefused("this site chose other keepers than it is said to have chosen")
        if set(sealed) != set(choices.kept_by(self._site)) - {self._site}:
            raise SecureSumRefused("shares came from other sites than are said to have chosen this one")
        self._choices = choices
        self._require_enough(choices.shared)
        self._require_difference(choices.shared)
        for name in sealed:
            share = masks.unseal(self._channel_to(name, name, self._site), sealed[name], self._participants.digest)
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
        peers = choices.peers_of(self._site)
        # Of a pair one adds the mask, and the other takes it away.
        agreed = [(masks.agree(self._mask, self._participants[name].mask_key), self._site < name) for name in peers]
        add_pairs(agreed, salt, bits, numbers)
        return MaskedInput(self._site, bits, numbers, sign(self._key, masked_text(choices, self._site, bits)))

    def count(self, arrived: Collection[str]) -> CountShares:
        """Stage 4: `arrived` are the sites whose masked input came."""
        self._enter(4)
        # "One share of one kind for each peer": the two sets below do not meet, and this stage is passed once.
        if not set(arrived) <= set(self._choices.shared) or self._site not in arrived:
            raise SecureSumRefused("the sites said to have sent their input are not those that shared")
        self._require_enough(set(arrived))
        self._require_difference(arrived)
        self._arrived = tuple(sorted(set(arrived)))
        context = context_of(self._choices, self._arrived)
        # "The server cannot count holders": shares of seeds are for the other sites alone.
        keys = {
            name: masks.seal(self._channel_to(name, self._site, name, COUNTS), self._seeds_key, context)
            for name in self._arrived
            if name != self._site
        }
        lost = sorted(set(self._shares) - set(arrived))
        return CountShares(
            keys,
            seal_shares(self._seeds_key, self._seed_shares(), context),
            {name: self._shares[name].mask_key for name in lost},
        )

    def open(self, evidence: Evidence, keys: Mapping[str, bytes]) -> None:
        """Stage 5, first: count holders. `keys` are those that the peers that passed stage 4 sealed for this site."""
        self._enter(5)
        # "The count is over exactly the sites that stage 4 was about."
        if tuple(sorted(evidence.bits)) != self._arrived:
            raise SecureSumRefused("the evidence is about other sites than those whose input came")
        seeds = recover_seeds(self._unsealed(evidence, keys), self._participants, self._arrived)
        self._holders = count_holders(evidence, seeds, self._choices, self._blocks, self._roster)

    def unmask(self, silent: Collection[str] = ()) -> Unmasking:
        """Stage 5: the masks of released blocks; `silent` are all sites that went silent since stage 3, and may become
        more from call to call."""
        if self._holders is None:
            raise SecureSumRefused(f"masks were asked for after stage {self._stage}, before holders were counted")
        all_silent = self._silent | set(silent)
        if not all_silent <= set(self._arrived) or self._site in all_silent:
            raise SecureSumRefused("a site said to be silent is this one, or sent no input")
        # "At most |arrived| - quorum sites are silent, and at most m - t of those that it keeps shares for": more, and
        # the server could gather every site's seed piece by piece.
        kept, neighbourhood = all_silent & set(self._shares), self._participants.neighbourhood
        if (
            len(all_silent) > len(self._arrived) - self._participants.quorum
            or len(kept) > neighbourhood.keepers - neighbourhood.threshold
        ):
            raise SecureSumRefused(f"{len(all_silent)} sites are said to be silent; too few are left")
        self._silent = all_silent
        salt = self._session.digest()
        # "A block that fewer than min_holders sites hold is not released."
        released = [name for name in self._blocks if self._holders[name] >= self._rules.min_holders]
        return Unmasking(
            {name: block_key(self._input_seed, salt, name) for name in released},
            {name: self._shares[name].input_seed for name in sorted(kept & set(silent))},
        )

    def _enter(self, stage: int) -> None:
        # "Each stage once, in order": a server that asks twice wants to compare the answers.
        if self._stage != stage - 1:
            raise SecureSumRefused(f"stage {stage} was asked for after stage {self._stage}")
        self._stage = stage

    def _require_enough(self, left: Collection[str]) -> None:
        least = max(self._participants.quorum, self._rules.min_sites)
        if len(left) < least:
            raise SecureSumRefused(f"{len(left)} sites are left; this site goes on with {least} or more")

    def _require_difference(self, names: Collection[str]) -> None:
        # "Sums differ by min_cohort_difference sites or more, or by none": what they differ by is a sum too. No other
        # combination of them tells about fewer either (permmoe.federated.release_account).
        if not self._account.admits(dict.fromkeys(names, 1), self._rules.min_cohort_difference):
            raise SecureSumRefused(
                f"with the study's earlier sums, this one would tell about fewer than "
                f"{self._rules.min_cohort_difference} sites by subtraction"
            )

    def _seed_shares(self) -> dict[str, bytes]:
        """The shares that this site keeps of the seeds of bits that came."""
        return {name: self._shares[name].count_seed for name in self._arrived if name in self._shares}

    def _unsealed(self, evidence: Evidence, keys: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
        """By site that was told of the same inputs: the shares that it keeps of the seeds of bits that came."""
        told, shares = {*keys, self._site}, {self._site: self._seed_shares()}
        if not told <= set(self._arrived) or set(evidence.seeds) != told or self._site in keys:
            raise SecureSumRefused("shares of seeds came from a site that sent no input, or lack their key")
        context, arrived = context_of(self._choices, self._arrived), set(self._arrived)
        for name, sealed in keys.items():
            key = masks.unseal(self._channel_to(name, name, self._site, COUNTS), sealed, context)
            # "All sites were told of the same inputs": a peer that was told of others sealed its key for those.
            if key is None:
                raise SecureSumRefused(f"the key of {name} was not sealed for this site and these inputs")
            kept = [of for of in self._choices.kept_by(name) if of in arrived]
            of_peer = unseal_shares(key, evidence.seeds[name], context, kept)
            if of_peer is None:
                raise SecureSumRefused(f"the shares of {name} were not sealed for these inputs")
            shares[name] = of_peer
        # "Of each site's keepers t or more were told of the same inputs": then too few were told of others to give
        # anybody a secret of the other kind (with 2t > m, and fewer than 2t - m of the keepers colluding).
        self._require_enough(told)
        if self._choices.fewest_keepers(self._arrived, told) < self._participants.neighbourhood.threshold:
            raise SecureSumRefused("too few of a site's keepers were told of the same inputs")
        return shares

    def _channel_to(self, peer: str, sender: str, receiver: str, label: str = "shares") -> bytes:
        """The key of one message from a participant to another; no two messages have the same label and direction."""
        if peer not in self._secrets:
            self._secrets[peer] = masks.agree(self._channel, self._participants[peer].channel_key)
        return masks.derive(self._secrets[peer], self._session.digest(), f"{label}\0{sender}\0{receiver}")
