"""The coordinator's signed word that a study's model never saw who withdrew. Bytes in, bytes out.

It names models by digests that sites have in their own ledgers, so that a hospital needs not believe it: the newest
model from before its first round, and the head of the follow-up study's chain, of which it has signed links itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from permmoe.federated.audit import AuditError, check_server_signature, sign_as_server
from permmoe.federated.forgetting_config import ForgettingConfig
from permmoe.federated.model_chain import ChainHead

PURPOSE = b"permmoe forgetting 1\0"
"""Signed before the text, so that no signature passes for one of another purpose."""


@dataclass(frozen=True)
class Forgotten:
    """What a certificate says."""

    forgets: ForgettingConfig
    study: str
    """Digest of the follow-up study."""
    chain: ChainHead
    """Of all models that the follow-up study announced."""
    model: str
    """SHA-256 of the model that it ended with, as it travelled; a link of the chain."""
    tensors_sha256: str
    """Of the file of that model's tensors, as it is registered."""
    last_round: int

    def values(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "forgets": self.forgets.model_dump(mode="json"),
            "study": self.study,
            "chain": vars(self.chain),
            "model": self.model,
            "tensors_sha256": self.tensors_sha256,
            "last_round": self.last_round,
        }

    def signed_text(self) -> bytes:
        """What the server's signature is of."""
        return PURPOSE + _canonical(self.values())


@dataclass(frozen=True)
class Certificate:
    """What is said, signed by the coordinator's server."""

    said: Forgotten
    signature: str
    server: str
    """The server's certificate, PEM."""

    def values(self) -> dict[str, Any]:
        """As it is kept in a ledger."""
        return {"said": self.said.values(), "signature": self.signature, "server": self.server}

    def line(self) -> bytes:
        """As it is written to a file."""
        return _canonical(self.values())


def certify(said: Forgotten, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, pem: str) -> Certificate:
    """The certificate; `pem` is the server's certificate as text. The key must be the certificate's."""
    return Certificate(said, sign_as_server(said.signed_text(), key, certificate), pem)


def parse_certificate(line: bytes) -> Certificate:
    """A certificate from its file; says nothing about whether it is true. Raises AuditError."""
    try:
        return certificate_from(json.loads(line))
    except (ValueError, RecursionError):
        raise AuditError("the certificate is damaged, or none") from None


def certificate_from(values: object) -> Certificate:
    """A certificate from its values; says nothing about whether it is true. Raises AuditError."""
    try:
        if not isinstance(values, dict):
            raise TypeError
        said, chain = values["said"], values["said"]["chain"]
        return Certificate(
            Forgotten(
                ForgettingConfig.model_validate(said["forgets"]),
                str(said["study"]),
                ChainHead(str(chain["study"]), int(chain["length"]), str(chain["digest"])),
                str(said["model"]),
                str(said["tensors_sha256"]),
                int(said["last_round"]),
            ),
            str(values["signature"]),
            str(values["server"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        raise AuditError("the certificate is damaged, or none") from None


def check_certificate(certificate: Certificate, authority: x509.Certificate) -> None:
    """Raise AuditError unless a server of this authority's federation signed it."""
    text = certificate.said.signed_text()
    check_server_signature("the certificate", text, certificate.signature, certificate.server, authority)


def _canonical(values: object) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
