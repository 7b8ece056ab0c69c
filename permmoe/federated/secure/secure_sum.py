"""The sum of many sites' numbers, of which nobody learns a single site's: neither values, nor counts, nor modalities.

After Bonawitz et al. 2017 (doi 10.1145/3133956.3133982), with release by block. Every site sends every block of numbers
in the same shape, zeros where it has nothing, and one bit a block that says whether it has (is a HOLDER). Five stages:

1. ADVERTISE. A site signs fresh keys and commitments to two seeds with its roster key.
2. SHARE. Each site gives every other a Shamir share of its mask key and of both seeds, sealed for that site alone.
3. MASK. A site adds its seeds' masks and, with each peer, a mask that the peer takes away; bits have their own masks.
4. COUNT. For a site whose input came, the others give shares of the seed of its bits' mask; for one whose input did
   not, shares of its mask key. The sum of the bits, how many sites hold each block, is then known, and nothing else.
5. OPEN. Each site counts again by itself from the others' signed bits, and gives its masks of the blocks that
   `min_holders` sites or more hold; for sites that went silent since, shares of their seed. Repeated as more go silent.

Numbers are integers modulo 2^64 (permmoe.federated.fixed_point), bits modulo 2^32. `SiteSum` is a site's side and
refuses what a lying server might ask; `ServerSum` is the server's. docs/threat-model.md says what this promises.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from jaxtyping import Int64, UInt32, UInt64

from permmoe.errors import PermmoeError
from permmoe.federated.fixed_point import LARGEST
from permmoe.federated.secure import masks

ALGORITHM = ec.ECDSA(hashes.SHA256())
SIGNATURE_BYTES = 104
"""The most that DER takes for a signature with P-384."""
ADVERTISED, MASKED = b"permmoe secure advertisement 1\0", b"permmoe secure input 1\0"
"""Signed before the text, so that no signature passes for one of another purpose."""

Blocks = Mapping[str, int]
"""Name of each block of numbers -> how many, in the order in which they stand."""
SiteKeys = Mapping[str, ec.EllipticCurvePublicKey]
"""The roster's: who may take part, and the key that each one signs with."""


class SecureSumRefused(PermmoeError):
    """A request that would break what the secure sum promises, or a message that is not what it says."""


def threshold(share: float, n_sites: int) -> int:
    """t: how many of n sites must stay to the end, more than half whatever the share.

    With 2t > n, n sites that give one share a peer cannot give t shares of both kinds for anybody.
    """
    return max(math.floor(share * n_sites), n_sites // 2) + 1


@dataclass(frozen=True)
class Session:
    """One sum, as all who take part in it must agree on it."""

    study: str
    """Digest of the plan, which each site has approved."""
    purpose: str
    """`training`, or the part of the visits that is evaluated."""
    round: int
    model: str
    """Digest of the model that the sites start from."""
    nonce: str
    """Chosen by the server, another one each time."""

    def digest(self) -> bytes:
        """What keys and signatures are bound to."""
        parts = (self.study, self.purpose, str(self.round), self.model, self.nonce)
        return hashlib.sha256("\0".join(parts).encode()).digest()


@dataclass(frozen=True)
class Advertisement:
    """A site's fresh keys for one session, signed with its roster key."""

    site: str
    channel_key: bytes
    """X25519: for what sites send one another through the server."""
    mask_key: bytes
    """X25519: for the masks of pairs."""
    count_commitment: bytes
    """SHA-256 of the seed that masks the bits."""
    input_commitment: bytes
    """SHA-256 of the seed that masks the numbers."""
    signature: bytes = b""

    def content(self) -> bytes:
        """All of it but the signature."""
        name = self.site.encode()
        keys = (self.channel_key, self.mask_key, self.count_commitment, self.input_commitment)
        return bytes([len(name)]) + name + b"".join(keys)

    def is_signed(self, session: Session, key: ec.EllipticCurvePublicKey) -> bool:
        """Whether the site's roster key signed it for this session."""
        keys = (self.channel_key, self.mask_key, self.count_commitment, self.input_commitment)
        return all(len(k) == masks.KEY_BYTES for k in keys) and _verifies(
            key, self.signature, ADVERTISED + session.digest() + self.content()
        )


@dataclass(frozen=True)
class Cohort:
    """The sites of a session, by name, and t."""

    session: Session
    sites: tuple[Advertisement, ...]
    threshold: int

    @classmethod
    def of(cls, session: Session, sites: Iterable[Advertisement], t: int) -> Cohort:
        """In the order of names."""
        return cls(session, tuple(sorted(sites, key=lambda site: site.site)), t)

    @property
    def names(self) -> tuple[str, ...]:
        """In order; a site's place, from 1, is the number of its shares."""
        return tuple(site.site for site in self.sites)

    def __getitem__(self, name: str) -> Advertisement:
        return self.sites[self.names.index(name)]

    def digest(self) -> bytes:
        """What sealed shares and masked inputs are bound to: two sites that were told of other peers notice."""
        content = b"".join(site.content() for site in self.sites)
        return hashlib.sha256(self.session.digest() + bytes([0, *self.threshold.to_bytes(4)]) + content).digest()


@dataclass(frozen=True)
class MaskedInput:
    """A site's bits and numbers under their masks: to anybody else random."""

    site: str
    bits: UInt32[np.ndarray, " block"]
    numbers: UInt64[np.ndarray, " n"]
    signature: bytes
    """Of the bits and of whom they are masked with."""


@dataclass(frozen=True)
class MaskedBits:
    """What of a masked input is shown to the other sites."""

    bits: UInt32[np.ndarray, " block"]
    signature: bytes


@dataclass(frozen=True)
class CountShares:
    """What one site gives in stage 4; a peer is in one of the two, never in both."""

    count_seeds: Mapping[str, bytes]
    """For each site whose input came, a share of the seed of its bits' mask."""
    mask_keys: Mapping[str, bytes]
    """For each site whose input did not come, a share of its mask key."""


@dataclass(frozen=True)
class Evidence:
    """How many sites hold each block, in a form that every site can check."""

    bits: Mapping[str, MaskedBits]
    """Of every site whose input came."""
    count_seeds: Mapping[str, bytes]
    """Of the same sites."""
    mask_keys: Mapping[str, bytes]
    """Of the sites that shared and whose input did not come."""


@dataclass(frozen=True)
class Opening:
    """What one site gives in stage 5."""

    block_keys: Mapping[str, bytes]
    """For each released block the key of this site's own mask."""
    input_seeds: Mapping[str, bytes]
    """For each site that is silent now a share of the seed of its masks."""


@dataclass(frozen=True)
class Rules:
    """What a site insists on; its own policy and the study's, whichever is stricter."""

    threshold_share: float = 2 / 3
    min_sites: int = 3
    """A sum over fewer is refused at every stage."""
    min_holders: int = 3
    """A block that fewer hold is not released: the sum would be close to one site's own."""


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


class SiteSum:
    """A site's side of one session. Each method is a stage, can be called once (`open` again), and keeps the rules.

    All raise SecureSumRefused.
    """

    def __init__(
        self,
        session: Session,
        site: str,
        key: ec.EllipticCurvePrivateKey,
        roster: SiteKeys,
        rules: Rules,
        blocks: Blocks,
    ) -> None:
        self._session, self._site, self._key, self._roster, self._rules = session, site, key, roster, rules
        self._blocks = blocks
        self._channel, self._mask = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._count_seed, self._input_seed = (secrets.token_bytes(masks.SEED_BYTES) for _ in range(2))
        self._stage = 0
        self._cohort = Cohort(session, (), 0)
        self._shares: dict[str, _Shares] = {}
        self._arrived: tuple[str, ...] = ()
        self._silent: set[str] = set()
        self._evidence: Evidence | None = None

    @property
    def session(self) -> Session:
        """Which sum this is."""
        return self._session

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
        return replace(unsigned, signature=_signed(self._key, ADVERTISED + self._session.digest() + unsigned.content()))

    def share(self, sites: Sequence[Advertisement], t: int) -> dict[str, bytes]:
        """Stage 2: sealed shares for every other site of the cohort, which is checked here."""
        self._enter(2)
        names = [site.site for site in sites]
        # "Nobody is in a cohort twice, and this site is, with its own keys."
        if len(set(names)) < len(names):
            raise SecureSumRefused("a site stands twice in the cohort")
        # "A sum over fewer than min_sites sites is refused."
        if len(names) < self._rules.min_sites:
            raise SecureSumRefused(
                f"the cohort has {len(names)} sites; this site takes part from {self._rules.min_sites}"
            )
        # "t and n are as in the site's own rules."
        if t != threshold(self._rules.threshold_share, len(names)):
            raise SecureSumRefused(f"t = {t} of {len(names)} sites is not this site's threshold")
        for site in sites:
            # "Every peer is in the signed roster, and its keys are signed with the key that stands there."
            if site.site not in self._roster:
                raise SecureSumRefused("a site of the cohort is not in the roster")
            if not site.is_signed(self._session, self._roster[site.site]):
                raise SecureSumRefused(f"the keys of {site.site} are not signed by that site for this session")
        cohort = Cohort.of(self._session, sites, t)
        if self._site not in names or cohort[self._site].mask_key != masks.public_bytes(self._mask):
            raise SecureSumRefused("the cohort does not hold this site's own keys")
        self._cohort = cohort
        secret = masks.private_bytes(self._mask) + self._count_seed + self._input_seed
        sealed: dict[str, bytes] = {}
        for name, share in zip(cohort.names, masks.split(secret, t, len(names)), strict=True):
            if name == self._site:
                self._shares[name] = _Shares.unpack(share)
            else:
                sealed[name] = masks.seal(self._channel_to(name, self._site, name), share, cohort.digest())
        return sealed

    def mask(self, sealed: Mapping[str, bytes], values: Mapping[str, Int64[np.ndarray, " _"]]) -> MaskedInput:
        """Stage 3: this site's blocks in fixed point; it holds those that are given. `sealed`: the others' shares."""
        self._enter(3)
        peers = sorted(set(sealed) - {self._site})
        if not set(peers) <= set(self._cohort.names):
            raise SecureSumRefused("shares came from a site that is not in the cohort")
        self._require_enough(len(peers) + 1)
        for name in peers:
            share = masks.unseal(self._channel_to(name, name, self._site), sealed[name], self._cohort.digest())
            # "Shares are for this cohort: a peer that was told of another one would have sealed them otherwise."
            if share is None or len(share) != SHARES_BYTES:
                raise SecureSumRefused(f"the shares from {name} were not sealed for this site and this cohort")
            self._shares[name] = _Shares.unpack(share)
        bits = np.array([name in values for name in self._blocks], np.uint32)
        numbers = np.zeros(sum(self._blocks.values()), np.uint64)
        for name, place in _places(self._blocks).items():
            if name in values:
                numbers[place] = _within_range(values[name], len(self._cohort.names)).view(np.uint64)
        salt = self._session.digest()
        masks.add_mask(bits, masks.derive(self._count_seed, salt, "bits"))
        for name, place in _places(self._blocks).items():
            masks.add_mask(numbers[place], _block_key(self._input_seed, salt, name))
        for name in peers:
            pair = masks.agree(self._mask, self._cohort[name].mask_key)
            _add_pair(pair, salt, bits, numbers, is_added=self._site < name)
        signature = _signed(self._key, _masked_text(self._cohort, [*peers, self._site], self._site, bits))
        return MaskedInput(self._site, bits, numbers, signature)

    def count(self, arrived: Collection[str]) -> CountShares:
        """Stage 4: `arrived` are the sites whose masked input came."""
        self._enter(4)
        # "One share of one kind for each peer": the two sets below do not meet, and this stage is passed once.
        if not set(arrived) <= set(self._shares) or self._site not in arrived:
            raise SecureSumRefused("the sites said to have sent their input are not those that shared")
        self._require_enough(len(set(arrived)))
        self._arrived = tuple(sorted(set(arrived)))
        lost = sorted(set(self._shares) - set(arrived))
        return CountShares(
            {name: self._shares[name].count_seed for name in self._arrived},
            {name: self._shares[name].mask_key for name in lost},
        )

    def open(self, evidence: Evidence, silent: Collection[str] = ()) -> Opening:
        """Stage 5: the masks of released blocks, once the evidence is checked; `silent` may grow from call to call."""
        if self._stage != 4:
            raise SecureSumRefused(f"stage 5 was asked for after stage {self._stage}")
        if self._evidence is not None and not _is_same(evidence, self._evidence):
            raise SecureSumRefused("the evidence of this session has changed")
        # "The count is over exactly the sites that stage 4 was about."
        if tuple(sorted(evidence.bits)) != self._arrived:
            raise SecureSumRefused("the evidence is about other sites than those whose input came")
        shared = tuple(sorted(self._shares))
        counts = count_holders(evidence, self._cohort, shared, self._blocks, self._roster)
        all_silent = self._silent | set(silent)
        # "At most |arrived| - t sites are silent": more, and the server could gather every site's seed piece by piece.
        if not all_silent <= set(self._arrived) or self._site in all_silent:
            raise SecureSumRefused("a site said to be silent is this one, or sent no input")
        if len(all_silent) > len(self._arrived) - self._cohort.threshold:
            raise SecureSumRefused(f"{len(all_silent)} sites are said to be silent; too few are left")
        self._evidence, self._silent = evidence, all_silent
        salt = self._session.digest()
        # "A block that fewer than min_holders sites hold is not released."
        released = [name for name in self._blocks if counts[name] >= self._rules.min_holders]
        return Opening(
            {name: _block_key(self._input_seed, salt, name) for name in released},
            {name: self._shares[name].input_seed for name in sorted(silent)},
        )

    def _enter(self, stage: int) -> None:
        # "Each stage once, in order": whoever asks twice wants to compare the answers.
        if self._stage != stage - 1:
            raise SecureSumRefused(f"stage {stage} was asked for after stage {self._stage}")
        self._stage = stage

    def _require_enough(self, n_sites: int) -> None:
        least = max(self._cohort.threshold, self._rules.min_sites)
        if n_sites < least:
            raise SecureSumRefused(f"{n_sites} sites are left; this site goes on with {least} or more")

    def _channel_to(self, peer: str, sender: str, receiver: str) -> bytes:
        secret = masks.agree(self._channel, self._cohort[peer].channel_key)
        return masks.derive(secret, self._session.digest(), f"shares\0{sender}\0{receiver}")


def count_holders(
    evidence: Evidence, cohort: Cohort, shared: Collection[str], blocks: Blocks, roster: SiteKeys
) -> dict[str, int]:
    """How many sites hold each block, from what they signed. Server and sites count with this same function.

    `shared`: the sites that passed stage 2. Raises SecureSumRefused for evidence that is not what the sites sent.
    """
    arrived, lost = sorted(evidence.bits), sorted(set(shared) - set(evidence.bits))
    if sorted(evidence.count_seeds) != arrived or sorted(evidence.mask_keys) != lost:
        raise SecureSumRefused("the evidence is not complete")
    salt = cohort.session.digest()
    total = np.zeros(len(blocks), np.uint32)
    for name in arrived:
        masked = evidence.bits[name]
        # "Bits are those that the site signed, masked with these peers."
        if masked.bits.shape != total.shape or not _verifies(
            roster[name], masked.signature, _masked_text(cohort, shared, name, masked.bits)
        ):
            raise SecureSumRefused(f"the bits of {name} are not those that it signed")
        # "Seeds and keys are those that the site committed to."
        if hashlib.sha256(evidence.count_seeds[name]).digest() != cohort[name].count_commitment:
            raise SecureSumRefused(f"the seed of {name} is not the one that it committed to")
        total += masked.bits
        masks.add_mask(total, masks.derive(evidence.count_seeds[name], salt, "bits"), is_added=False)
    for name in lost:
        key = _mask_key(evidence.mask_keys[name], cohort[name])
        for other in arrived:
            pair = masks.agree(key, cohort[other].mask_key)
            # What `other` added or took away for the pair.
            masks.add_mask(total, masks.derive(pair, salt, "pair bits"), is_added=not other < name)
    # "A count is a number of sites."
    if int(total.max(initial=0)) > len(arrived):
        raise SecureSumRefused("a block has more holders than sites; somebody's bits are no bits")
    return dict(zip(blocks, total.tolist(), strict=True))


@dataclass(frozen=True)
class Opened:
    """The sum over all sites whose input came."""

    values: Mapping[str, Int64[np.ndarray, " _"]]
    """Of every released block, in fixed point."""
    holders: Mapping[str, int]
    """Of every block."""


@dataclass
class ServerSum:
    """The server's side: what it knows so far. Memory is one vector of numbers, however many sites take part."""

    cohort: Cohort
    blocks: Blocks
    roster: SiteKeys
    sealed: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    """Sender -> receiver -> shares that the server cannot read."""
    bits: dict[str, MaskedBits] = field(default_factory=dict)
    total: UInt64[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0, np.uint64))
    counted: dict[str, CountShares] = field(default_factory=dict)

    def take_shares(self, site: str, sealed: Mapping[str, bytes]) -> None:
        """Stage 2's reply. Raises SecureSumRefused unless there is one for every other site."""
        if set(sealed) != set(self.cohort.names) - {site}:
            raise SecureSumRefused("shares are missing, or for others than the cohort")
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
        text = _masked_text(self.cohort, self.sealed, masked.site, masked.bits)
        if not _verifies(self.roster[masked.site], masked.signature, text):
            raise SecureSumRefused("the masked input is not signed by its site")
        if not len(self.total):
            self.total = np.zeros_like(masked.numbers)
        self.total += masked.numbers
        self.bits[masked.site] = MaskedBits(masked.bits, masked.signature)

    def take_count_shares(self, site: str, shares: CountShares) -> None:
        """Stage 4's reply. Raises SecureSumRefused."""
        if sorted(shares.count_seeds) != sorted(self.bits) or sorted(shares.mask_keys) != sorted(self.lost):
            raise SecureSumRefused("shares are missing, or of the wrong kind")
        self.counted[site] = shares

    @property
    def lost(self) -> tuple[str, ...]:
        """Sites that shared and whose input did not come."""
        return tuple(name for name in self.sealed if name not in self.bits)

    def evidence(self) -> Evidence:
        """The seeds and keys that stage 4's shares give. Raises SecureSumRefused where they are too few or wrong."""
        seeds = {name: self._recover({s: c.count_seeds[name] for s, c in self.counted.items()}) for name in self.bits}
        keys = {name: self._recover({s: c.mask_keys[name] for s, c in self.counted.items()}) for name in self.lost}
        return Evidence(dict(self.bits), seeds, keys)

    def open(self, evidence: Evidence, openings: Mapping[str, Opening], silent: Collection[str], least: int) -> Opened:
        """The sums of the blocks that `least` sites or more hold and that every site released.

        `openings` of every site that is not silent. Raises SecureSumRefused where they do not fit together.
        """
        holders = count_holders(evidence, self.cohort, tuple(self.sealed), self.blocks, self.roster)
        salt = self.cohort.session.digest()
        keys: dict[str, Mapping[str, bytes]] = {site: opening.block_keys for site, opening in openings.items()}
        # A site's own policy may be stricter than the study: what one does not release, nobody can read.
        released = {
            name: place
            for name, place in _places(self.blocks).items()
            if holders[name] >= least and all(name in of_site for of_site in keys.values())
        }
        for name in silent:
            seed = self._recover({site: opening.input_seeds[name] for site, opening in openings.items()})
            if hashlib.sha256(seed).digest() != self.cohort[name].input_commitment:
                raise SecureSumRefused("the seed of a silent site is not the one that it committed to")
            keys[name] = {block: _block_key(seed, salt, block) for block in released}
        if set(keys) != set(self.bits):
            raise SecureSumRefused("openings are not of the sites whose input came")
        for name in self.lost:
            key = _mask_key(evidence.mask_keys[name], self.cohort[name])
            for other in self.bits:
                pair = masks.derive(masks.agree(key, self.cohort[other].mask_key), salt, "pair numbers")
                masks.add_mask(self.total, pair, is_added=not other < name)
        for of_site in keys.values():
            for block, place in released.items():
                masks.add_mask(self.total[place], of_site[block], is_added=False)
        return Opened({name: self.total[place].view(np.int64) for name, place in released.items()}, holders)

    def _recover(self, shares: Mapping[str, bytes]) -> bytes:
        if len(shares) < self.cohort.threshold:
            raise SecureSumRefused(f"{len(shares)} sites are left of the {self.cohort.threshold} that it takes")
        numbers = {self.cohort.names.index(site) + 1: share for site, share in sorted(shares.items())}
        return masks.combine(dict(list(numbers.items())[: self.cohort.threshold]))


def _places(blocks: Blocks) -> dict[str, slice]:
    """Where each block stands in the vector of numbers."""
    ends = np.cumsum(list(blocks.values())).tolist()
    return {name: slice(end - size, end) for (name, size), end in zip(blocks.items(), ends, strict=True)}


def _block_key(seed: bytes, salt: bytes, block: str) -> bytes:
    return masks.derive(seed, salt, f"numbers\0{block}")


def _add_pair(
    pair: bytes,
    salt: bytes,
    bits: UInt32[np.ndarray, " block"],
    numbers: UInt64[np.ndarray, " n"],
    *,
    is_added: bool,
) -> None:
    """The masks that two sites agree on: one adds them, the other takes them away."""
    masks.add_mask(bits, masks.derive(pair, salt, "pair bits"), is_added=is_added)
    masks.add_mask(numbers, masks.derive(pair, salt, "pair numbers"), is_added=is_added)


def _within_range(values: Int64[np.ndarray, " _"], n_sites: int) -> Int64[np.ndarray, " _"]:
    # "A sum that would wrap around is an error, never silent": each site keeps to its part of the range.
    largest = LARGEST // n_sites
    if len(values) and (int(values.max()) > largest or int(values.min()) < -largest):
        raise SecureSumRefused(f"a value is too large to be summed over {n_sites} sites without wrapping around")
    return values


def _mask_key(secret: bytes, advertised: Advertisement) -> X25519PrivateKey:
    key = X25519PrivateKey.from_private_bytes(secret)
    if masks.public_bytes(key) != advertised.mask_key:
        raise SecureSumRefused(f"the mask key of {advertised.site} is not the one that it advertised")
    return key


def _masked_text(cohort: Cohort, shared: Iterable[str], site: str, bits: UInt32[np.ndarray, " block"]) -> bytes:
    """What a masked input's signature is of: cohort, the sites it is masked with, whose it is, and the masked bits."""
    names = "\0".join(sorted(shared)).encode()
    return MASKED + cohort.digest() + hashlib.sha256(names).digest() + site.encode() + b"\0" + bits.tobytes()


def _is_same(one: Evidence, other: Evidence) -> bool:
    return (
        one.count_seeds == other.count_seeds
        and one.mask_keys == other.mask_keys
        and all(np.array_equal(one.bits[name].bits, other.bits[name].bits) for name in one.bits)
    )


def _signed(key: ec.EllipticCurvePrivateKey, text: bytes) -> bytes:
    """A signature of always the same length, zeros behind it: DER's own varies by some bytes."""
    return key.sign(text, ALGORITHM).ljust(SIGNATURE_BYTES, b"\0")


def _verifies(key: ec.EllipticCurvePublicKey, signature: bytes, text: bytes) -> bool:
    try:
        # DER says its own length in the second byte.
        key.verify(signature[: 2 + signature[1]], text, ALGORITHM)
    except (InvalidSignature, IndexError):
        return False
    return len(signature) == SIGNATURE_BYTES
