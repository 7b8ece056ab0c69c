"""The record of everything that left a site: a chain of entries, each signed with the site's key. Bytes in, bytes out.

Each entry holds the SHA-256 of the line before it, so that nothing in the middle can be edited, dropped or moved. The
end is held by receipts: the coordinator countersigns the newest entry that it was told of, and a chain that lacks an
entry with a receipt has been cut. Signatures are ECDSA on P-384 with SHA-384 (FIPS 186-5).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from permmoe.errors import PermmoeError

Kind = Literal[
    "training", "evaluation", "survey", "sum", "account", "approval", "revocation", "withdrawal", "certificate"
]
ALGORITHM = ec.ECDSA(hashes.SHA384())
ENTRY_PURPOSE, RECEIPT_PURPOSE = b"permmoe ledger 1\0", b"permmoe receipt 1\0"
"""Signed before the text, so that no signature passes for one of another purpose."""
SERVER_NAME = "permmoe server"
"""The subject of the coordinator's certificate. A region's server has another one."""
START = "0" * 64
"""What stands for the digest of the line before the first."""


class AuditError(PermmoeError):
    """A record that was changed, or is not this site's."""


@dataclass(frozen=True)
class Entry:
    """One thing that left, or one decision."""

    sequence: int
    """From 1."""
    time: str
    """UTC, ISO 8601."""
    kind: Kind
    facts: Mapping[str, Any]
    """No subject, no path, no value of a tensor."""
    previous: str
    """SHA-256 of the line before it."""
    signature: str = ""

    def line(self) -> bytes:
        """As it is kept, without the line's end."""
        return _canonical({**self._signed_part(), "signature": self.signature})

    def digest(self) -> str:
        """SHA-256 of the line."""
        return hashlib.sha256(self.line()).hexdigest()

    def signed_text(self) -> bytes:
        """What the signature is of."""
        return ENTRY_PURPOSE + _canonical(self._signed_part())

    def _signed_part(self) -> dict[str, Any]:
        return {
            "sequence": self.sequence,
            "time": self.time,
            "kind": self.kind,
            "facts": self.facts,
            "previous": self.previous,
        }


@dataclass(frozen=True)
class LedgerHead:
    """The newest entry of a site's chain: what the coordinator is told, and countersigns."""

    site: str
    sequence: int
    digest: str

    def signed_text(self) -> bytes:
        """What a receipt's signature is of."""
        return RECEIPT_PURPOSE + f"{self.site} {self.sequence} {self.digest}".encode()


@dataclass(frozen=True)
class Receipt:
    """A ledger's newest entry, countersigned by the coordinator's server."""

    head: LedgerHead
    signature: str
    certificate: str
    """The server's certificate, PEM."""

    def line(self) -> bytes:
        """As it is kept, without the line's end."""
        return _canonical({**vars(self.head), "signature": self.signature, "certificate": self.certificate})


def next_entry(
    last: Entry | None, kind: Kind, facts: Mapping[str, Any], time: str, key: ec.EllipticCurvePrivateKey
) -> Entry:
    """The entry that follows `last`, signed."""
    number, previous = (last.sequence + 1, last.digest()) if last else (1, START)
    unsigned = Entry(number, time, kind, facts, previous)
    return Entry(number, time, kind, facts, previous, _text(key.sign(unsigned.signed_text(), ALGORITHM)))


def parse_entry(line: bytes) -> Entry:
    """An entry from its line; says nothing about whether it is true. Raises AuditError."""
    try:
        entry = Entry(**json.loads(line))
        if entry.line() != line:
            raise ValueError
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise AuditError("not an entry as it was written") from None
    return entry


def is_signed(entry: Entry, key: ec.EllipticCurvePublicKey) -> bool:
    """Whether the entry carries this key's signature."""
    return _verifies(key, entry.signature, entry.signed_text())


def read_chain(lines: Iterable[bytes], key: ec.EllipticCurvePublicKey) -> tuple[Entry, ...]:
    """The entries of a whole ledger. Raises AuditError that names the first line that is not as it was written."""
    entries: list[Entry] = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = parse_entry(line)
        except AuditError:
            raise AuditError(f"line {number} was edited or damaged") from None
        previous = entries[-1].digest() if entries else START
        if entry.sequence != number:
            raise AuditError(f"line {number} is entry {entry.sequence}: entries were removed, added or moved")
        if entry.previous != previous:
            raise AuditError(f"line {number} does not follow the line before it: that one was replaced")
        if not is_signed(entry, key):
            raise AuditError(f"line {number} is not signed with this site's key")
        entries.append(entry)
    return tuple(entries)


def countersign(head: LedgerHead, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, pem: str) -> Receipt:
    """The coordinator's receipt for a head; `pem` is the certificate as text. The key must be the certificate's."""
    return Receipt(head, sign_as_server(head.signed_text(), key, certificate), pem)


def parse_receipt(line: bytes) -> Receipt:
    """A receipt from its line; says nothing about whether it is true. Raises AuditError."""
    try:
        parts = json.loads(line)
        head = LedgerHead(str(parts["site"]), int(parts["sequence"]), str(parts["digest"]))
        return Receipt(head, str(parts["signature"]), str(parts["certificate"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise AuditError("a receipt is damaged, or not of this federation's server") from None


def read_receipt(line: bytes, authority: x509.Certificate) -> Receipt:
    """A receipt that a server of this federation signed; that its certificate has ended since does not matter.

    Raises AuditError.
    """
    receipt = parse_receipt(line)
    check_server_signature("a receipt", receipt.head.signed_text(), receipt.signature, receipt.certificate, authority)
    return receipt


def sign_as_server(text: bytes, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> str:
    """The server's signature of a text that begins with its purpose. Raises AuditError where the key is another's."""
    if key.public_key() != certificate.public_key():
        raise AuditError("the server's key and certificate do not belong together")
    return _text(key.sign(text, ALGORITHM))


def check_server_signature(
    what: str, text: bytes, signature: str, certificate_pem: str, authority: x509.Certificate
) -> None:
    """Raise AuditError, about `what`, unless a server of this authority's federation signed the text."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        certificate.verify_directly_issued_by(authority)
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        raise AuditError(f"{what} is damaged, or not of this federation's server") from None
    key = certificate.public_key()
    names = [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    # "A site's and a region's certificate are of the same authority and must not sign for the coordinator's server."
    if (
        ExtendedKeyUsageOID.SERVER_AUTH not in usage
        or names != [SERVER_NAME]
        or not isinstance(key, ec.EllipticCurvePublicKey)
    ):
        raise AuditError(f"{what} was not signed by the coordinator's server")
    if not _verifies(key, signature, text):
        raise AuditError(f"the signature of {what} is not the server's")


def check_receipts(entries: Sequence[Entry], receipts: Iterable[Receipt]) -> int:
    """The number of the newest entry that a receipt vouches for; 0 without any.

    Raises AuditError where an entry that has a receipt is gone or is another one now.
    """
    newest = 0
    for receipt in receipts:
        number = receipt.head.sequence
        if number > len(entries):
            raise AuditError(f"the ledger ends at entry {len(entries)}, but entry {number} has a receipt: it was cut")
        if entries[number - 1].digest() != receipt.head.digest:
            raise AuditError(f"entry {number} is not the one that its receipt is for: the ledger was rewritten")
        newest = max(newest, number)
    return newest


def _verifies(key: ec.EllipticCurvePublicKey, signature: str, text: bytes) -> bool:
    try:
        key.verify(base64.b64decode(signature, validate=True), text, ALGORITHM)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _text(signature: bytes) -> str:
    return base64.b64encode(signature).decode()


def _canonical(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
