"""Who sums what: a session, the keys that each site advertises for it, its participants, and the blocks of numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric import ec

from permmoe.errors import PermmoeError
from permmoe.federated.secure import masks
from permmoe.federated.secure.neighbourhood import Neighbourhood, neighbourhood, threshold
from permmoe.federated.secure.signatures import ADVERTISED, is_signature_of

Blocks = Mapping[str, int]
"""Name of each block of numbers -> how many, in the order in which they stand."""
SiteKeys = Mapping[str, ec.EllipticCurvePublicKey]
"""The sites of the roster, which may take part, and the key that each one signs with."""


class SecureSumRefused(PermmoeError):
    """A request that would break what the secure sum promises, or a message that is not what it says."""


@dataclass(frozen=True)
class Session:
    """One sum: the facts that all participants must agree on."""

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
        return all(len(k) == masks.KEY_BYTES for k in keys) and is_signature_of(
            key, self.signature, ADVERTISED + session.digest() + self.content()
        )


@dataclass(frozen=True)
class Participants:
    """The sites of a session, in the order of their names, and how many of them it takes."""

    session: Session
    sites: tuple[Advertisement, ...]
    quorum: int
    """So many sites, of all, must stay to the end."""
    neighbourhood: Neighbourhood
    """How many of them keep shares of a site's secrets."""

    @classmethod
    def of(cls, session: Session, sites: Iterable[Advertisement], share: float) -> Participants:
        """The participants in the order of their names. `share`: the study's `secure_threshold`."""
        ordered = tuple(sorted(sites, key=lambda site: site.site))
        n = len(ordered)
        return cls(session, ordered, threshold(share, n), neighbourhood(n, share))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Their names in order."""
        return tuple(self.numbers)

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The number of each site's shares: its place in the order, from 1."""
        return {site.site: number for number, site in enumerate(self.sites, start=1)}

    def __getitem__(self, name: str) -> Advertisement:
        return self.sites[self.numbers[name] - 1]

    @cached_property
    def digest(self) -> bytes:
        """What sealed shares and masked inputs are bound to, so that sites notice if their peers differ."""
        counts = (self.quorum, self.neighbourhood.keepers, self.neighbourhood.threshold)
        content = b"".join((*(count.to_bytes(4) for count in counts), *(site.content() for site in self.sites)))
        return hashlib.sha256(self.session.digest() + content).digest()
