"""The files of the kit, each read by itself, so that one damaged file is one finding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from permmoe.errors import PermmoeError
from permmoe.federated.roster import MAX_ROSTER_BYTES, Roster, read_roster
from permmoe_client.connection.identity import load_certificate, load_key
from permmoe_client.preflight.outcome import Attempt
from permmoe_client.site import Coordinator

T = TypeVar("T")


@dataclass(frozen=True)
class Credentials:
    """What the site shows, and what it believes by."""

    key: Attempt[ec.EllipticCurvePrivateKey] = field(default_factory=Attempt)
    certificate: Attempt[x509.Certificate] = field(default_factory=Attempt)
    authority: Attempt[x509.Certificate] = field(default_factory=Attempt)
    signed_roster: Attempt[bytes] = field(default_factory=Attempt)
    roster: Attempt[Roster] = field(default_factory=Attempt)


def read_credentials(coordinator: Coordinator | None) -> Credentials:
    """Read and verify all that can be read."""
    if coordinator is None:
        return Credentials()
    authority = _tried(lambda: load_certificate(coordinator.authority))
    signed = _tried(lambda: _roster_bytes(coordinator.roster))
    roster: Attempt[Roster] = Attempt()
    if authority.result is not None and signed.result is not None:
        signer, content = authority.result, signed.result
        roster = _tried(lambda: read_roster(content, signer))
    # A key that others can read is refused before it is looked into; its mode is a finding of its own.
    is_private = not (_mode(coordinator.key) & 0o077)
    return Credentials(
        key=_tried(lambda: load_key(coordinator.key)) if is_private else Attempt(),
        certificate=_tried(lambda: load_certificate(coordinator.certificate)),
        authority=authority,
        signed_roster=signed,
        roster=roster,
    )


def _roster_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        # One byte more than is allowed, so that reading it says that it is too large.
        return file.read(MAX_ROSTER_BYTES + 1)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _tried(work: Callable[[], T]) -> Attempt[T]:
    try:
        return Attempt(work())
    except PermmoeError as error:
        return Attempt(trouble=str(error))
    except OSError as error:
        return Attempt(trouble=f"{error.filename} cannot be read ({error.strerror})")
