"""Which models a study's coordinator has announced: a chain of links, its newest digest signed. Bytes in, bytes out.

Each link says which model was sent in which round, to train from or to evaluate. A coordinator that sends a model of
its own making has to enter it here, in the sight of all sites; one that shows two chains has signed the proof of it.
Plain and secure studies have the same chain. A site could compute the next model from the last sum, but nobody could
show it that the sum which it is sent is the one that was made; what the coordinator has signed it cannot take back.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from permmoe.federated.audit import AuditError, check_server_signature, sign_as_server

Purpose = Literal["training", "validation", "test"]
"""What sites are sent a model for: to train from it, or to evaluate it on a part of their visits."""
PURPOSES: tuple[Purpose, ...] = ("training", "validation", "test")
"""In the order in which a round asks for them."""
HEAD_PURPOSE = b"permmoe models 1\0"
"""Signed before the text, so that no signature passes for one of another purpose."""
LINK = struct.Struct(">IB32s")
"""A link as it travels: the round, the purpose's place in PURPOSES, SHA-256 of the model."""
EMPTY = "0" * 64
"""The digest of a chain without links."""


@dataclass(frozen=True)
class Link:
    """A model that was announced for a purpose in a round."""

    round: int
    purpose: Purpose
    model: str
    """SHA-256 (permmoe.federated.packed_model.digest_of), in hexadecimal."""

    def packed(self) -> bytes:
        """As it travels and is hashed."""
        return LINK.pack(self.round, PURPOSES.index(self.purpose), bytes.fromhex(self.model))


@dataclass(frozen=True)
class ChainHead:
    """A study's whole chain in one digest."""

    study: str
    """The plan's digest."""
    length: int
    """Links."""
    digest: str
    """SHA-256 over the digest before the last link, and that link; in hexadecimal."""

    def signed_text(self) -> bytes:
        """What the server's signature is of."""
        return HEAD_PURPOSE + f"{self.study} {self.length} {self.digest}".encode()


@dataclass(frozen=True)
class SignedHead:
    """A head, signed by the coordinator's server."""

    head: ChainHead
    signature: str
    certificate: str
    """The server's certificate, PEM."""

    def values(self) -> dict[str, Any]:
        """As it is kept in a ledger."""
        return {**vars(self.head), "signature": self.signature, "certificate": self.certificate}

    def line(self) -> bytes:
        """As it travels."""
        return json.dumps(self.values(), sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Announcement:
    """What comes with an instruction: all models that the study has announced so far, and the signature for them."""

    links: tuple[Link, ...]
    signed: SignedHead
    known: int = 0
    """How many of the links a site's ledger has already; it does not travel."""


def head_of(study: str, links: Iterable[Link]) -> ChainHead:
    """The head of a chain of these links."""
    digest, length = bytes.fromhex(EMPTY), 0
    for link in links:
        digest, length = hashlib.sha256(digest + link.packed()).digest(), length + 1
    return ChainHead(study, length, digest.hex())


def pack_links(links: Iterable[Link]) -> bytes:
    """Links, one after another; 37 bytes each."""
    return b"".join(link.packed() for link in links)


def unpack_links(packed: bytes) -> tuple[Link, ...]:
    """The links that were packed. Raises AuditError."""
    try:
        return tuple(Link(number, PURPOSES[place], model.hex()) for number, place, model in LINK.iter_unpack(packed))
    except (struct.error, IndexError):
        raise AuditError("the chain of models is damaged") from None


def sign_head(head: ChainHead, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, pem: str) -> SignedHead:
    """The head with the server's signature; `pem` is the certificate as text. The key must be the certificate's."""
    return SignedHead(head, sign_as_server(head.signed_text(), key, certificate), pem)


def parse_head(line: bytes) -> SignedHead:
    """A signed head from its line; says nothing about whether it is true. Raises AuditError."""
    try:
        return head_from(json.loads(line))
    except (ValueError, RecursionError):
        raise AuditError("the head of the chain of models is damaged") from None


def head_from(values: object) -> SignedHead:
    """A signed head from its values; says nothing about whether it is true. Raises AuditError."""
    try:
        if not isinstance(values, Mapping):
            raise TypeError
        head = ChainHead(str(values["study"]), int(values["length"]), str(values["digest"]))
        return SignedHead(head, str(values["signature"]), str(values["certificate"]))
    except (ValueError, KeyError, TypeError, OverflowError):
        raise AuditError("the head of the chain of models is damaged") from None


def check_head(signed: SignedHead, authority: x509.Certificate) -> None:
    """Raise AuditError unless a server of this authority's federation signed the head."""
    text = signed.head.signed_text()
    check_server_signature("the head of the chain of models", text, signed.signature, signed.certificate, authority)


def check_evaluated(links: Collection[Link]) -> None:
    """Raise AuditError where a round trained from another model than the one that was evaluated after the round before.

    For studies without a running mean, whose evaluated model is the newest. A round may also train from the model that
    the round before trained from: a round that was lost after sites had given their input to it leaves the model as it
    was, even where the coordinator had evaluated another one before it was killed.
    """
    models = _models(links)
    for (number, purpose), found in models.items():
        evaluated = models.get((number - 1, "validation"))
        if purpose == "training" and evaluated:
            allowed = evaluated | models.get((number - 1, "training"), set())
            if not found <= allowed:
                raise AuditError(f"round {number} trains from a model that was not evaluated after round {number - 1}")


def check_tested(links: Collection[Link]) -> None:
    """Raise AuditError where another model was tested than the one that was evaluated in the same round."""
    models = _models(links)
    for (number, purpose), found in models.items():
        evaluated = models.get((number, "validation"))
        if purpose == "test" and evaluated and not found <= evaluated:
            raise AuditError(f"round {number} tests a model that was not evaluated in it")


def rounds_with_two_models(links: Collection[Link]) -> int:
    """How many times a second model was announced for the same purpose of a round.

    A coordinator that is killed and runs a round again may have to; one that tries models on sites has to as well.
    """
    return sum(len(found) > 1 for found in _models(links).values())


def parting(one: Sequence[Link], other: Sequence[Link]) -> int | None:
    """The place, from 0, of the first link in which two chains differ; None while one is the beginning of the other.

    Two signed chains that part are proof that their coordinator told two stories.
    """
    return next((i for i, (here, there) in enumerate(zip(one, other, strict=False)) if here != there), None)


def _models(links: Iterable[Link]) -> Mapping[tuple[int, Purpose], set[str]]:
    found: dict[tuple[int, Purpose], set[str]] = defaultdict(set)
    for link in links:
        found[link.round, link.purpose].add(link.model)
    return dict(found)
