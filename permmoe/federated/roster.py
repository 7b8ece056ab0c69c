"""Who takes part: the list of sites and their public keys, signed by the coordinator.

A site believes keys because of this signature and of nothing else, so that a server that was broken into cannot slip in
a peer of its own. Bytes in, bytes out; nothing here reads a file. Signatures are ECDSA on P-384 with SHA-384 (FIPS
186-5).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, ValidationError, field_validator

from permmoe.config import Configuration
from permmoe.errors import PermmoeError

LONGEST_SITE_NAME = 64
"""Characters."""
SITE_NAME = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{LONGEST_SITE_NAME - 1}}}")
"""What a site may call itself: the name ends up in tables and file names."""
FEDERATION_NAME = r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}"
MAX_ROSTER_BYTES = 1_000_000
"""A site takes some 300 bytes: room for 3,000 of them, and an end to what a stranger can make us parse."""
ALGORITHM = ec.ECDSA(hashes.SHA384())
PURPOSE = b"permmoe roster 1\0"
"""Signed before the text: the key that signs rosters also signs certificates, and neither may pass for the other."""


class RosterError(PermmoeError):
    """A roster, or a key in one, that must not be believed."""


class RosterSite(Configuration):
    """A site and the key that its messages are signed with."""

    name: str = Field(pattern=f"^(?:{SITE_NAME.pattern})$")
    public_key: str = Field(description="EC P-384 as OpenSSH writes it, without a comment")
    region: str = Field(
        "",
        pattern=f"^(?:{SITE_NAME.pattern})?$",
        description="the region that it connects to; empty: the coordinator itself",
        exclude_if=lambda region: not region,
    )

    @field_validator("public_key")
    @classmethod
    def _one_text_for_one_key(cls, text: str) -> str:
        try:
            return public_key_text(text.encode())
        except RosterError as error:
            raise ValueError(str(error)) from None


class Roster(Configuration):
    """The sites of a federation, by name. Each change raises the serial number, so that an old roster can be told."""

    federation: str = Field(pattern=f"^(?:{FEDERATION_NAME})$")
    serial: int = Field(ge=1)
    sites: tuple[RosterSite, ...] = ()

    @field_validator("sites")
    @classmethod
    def _each_once_in_order(cls, sites: tuple[RosterSite, ...]) -> tuple[RosterSite, ...]:
        if len({site.name for site in sites}) < len(sites):
            raise ValueError("two sites have the same name")
        if len({site.public_key for site in sites}) < len(sites):
            raise ValueError("two sites have the same key")
        return tuple(sorted(sites, key=lambda site: site.name))

    @property
    def names(self) -> tuple[str, ...]:
        """The sites' names, in order."""
        return tuple(site.name for site in self.sites)

    def with_site(self, name: str, public_key: str, region: str = "") -> Roster:
        """The next roster, with one more site. Raises RosterError for a name or a key that is there, or is invalid."""
        site = {"name": name, "public_key": public_key, "region": region}
        return _checked(self.federation, self.serial + 1, [*self.sites, site])

    def without_site(self, name: str) -> Roster:
        """The next roster, without a site of that name."""
        return _checked(self.federation, self.serial + 1, [site for site in self.sites if site.name != name])


def sign_roster(roster: Roster, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The roster's canonical text with the coordinator's signature, as JSON."""
    text = roster.canonical_json()
    signature = base64.b64encode(key.sign(PURPOSE + text.encode(), ALGORITHM)).decode()
    return json.dumps({"roster": text, "signature": signature}, indent=1).encode() + b"\n"


def read_roster(
    signed: bytes, signer: x509.Certificate | ec.EllipticCurvePublicKey, *, minimum_serial: int = 1
) -> Roster:
    """The roster, once its signature has been verified; a certificate counts for its key, its dates are TLS's matter.

    `minimum_serial`: of the newest roster seen so far; an older one would bring removed sites back. Raises RosterError.
    """
    text, signature = _parts(signed)
    try:
        _signing_key(signer).verify(signature, PURPOSE + text.encode(), ALGORITHM)
    except InvalidSignature:
        raise RosterError(
            "the roster's signature is not the coordinator's; use the roster and the ca.crt of one kit, and compare "
            "the fingerprint with the coordinator by telephone"
        ) from None
    try:
        roster = Roster.model_validate_json(text)
    except ValidationError as error:
        raise RosterError(f"the roster is signed but not valid: {_reason(error)}; ask for a new one") from None
    if roster.canonical_json() != text:
        raise RosterError("the roster is signed but not in its canonical form; ask the coordinator for a new one")
    if roster.serial < minimum_serial:
        raise RosterError(
            f"the roster has serial number {roster.serial}, but number {minimum_serial} was seen before; "
            "ask the coordinator for the newest"
        )
    return roster


def site_keys(roster: Roster) -> dict[str, ec.EllipticCurvePublicKey]:
    """Every site's key, ready to verify with."""
    keys: dict[str, ec.EllipticCurvePublicKey] = {}
    for site in roster.sites:
        key = serialization.load_ssh_public_key(site.public_key.encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)
        keys[site.name] = key
    return keys


def fingerprint(signer: x509.Certificate | ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the signer's public key (DER, SubjectPublicKeyInfo): 16 groups of four, to read out by telephone."""
    der = _signing_key(signer).public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digits = hashlib.sha256(der).hexdigest()
    return " ".join(digits[i : i + 4] for i in range(0, len(digits), 4))


def site_fingerprint(public_key: str) -> str:
    """A site's key as `ssh-keygen -l` shows it: SHA256:… of the key's OpenSSH bytes."""
    digest = hashlib.sha256(base64.b64decode(public_key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def public_key_text(content: bytes) -> str:
    """The one form in which a roster holds a key: without a comment. Raises RosterError unless it is EC P-384."""
    try:
        key = serialization.load_ssh_public_key(content.strip())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise RosterError(
            "not an EC P-384 public key in OpenSSH form; `ssh-keygen -t ecdsa -b 384` makes one, in the file that ends "
            "in .pub"
        )
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _parts(signed: bytes) -> tuple[str, bytes]:
    if len(signed) > MAX_ROSTER_BYTES:
        raise RosterError(f"the roster is larger than {MAX_ROSTER_BYTES:,} bytes; ask the coordinator for it again")
    try:
        parts = json.loads(signed)
        text, signature = parts["roster"], base64.b64decode(parts["signature"], validate=True)
        # A lone surrogate is a string to JSON and has no bytes to verify.
        text.encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RosterError("this is no signed roster, or a damaged one; ask the coordinator for it again") from None
    return text, signature


def _signing_key(signer: x509.Certificate | ec.EllipticCurvePublicKey) -> ec.EllipticCurvePublicKey:
    key = signer.public_key() if isinstance(signer, x509.Certificate) else signer
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise RosterError("the coordinator's key is not EC P-384; use the ca.crt of the kit")
    return key


def _checked(federation: str, serial: int, sites: list[Any]) -> Roster:
    try:
        return Roster.model_validate({"federation": federation, "serial": serial, "sites": sites})
    except ValidationError as error:
        raise RosterError(f"the roster cannot be changed so: {_reason(error)}") from None


def _reason(error: ValidationError) -> str:
    return "; ".join(e["msg"].removeprefix("Value error, ") for e in error.errors())
