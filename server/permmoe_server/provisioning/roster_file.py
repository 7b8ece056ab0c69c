"""The signed roster's file, read again where it has changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from permmoe.federated.roster import Roster, read_roster, site_keys
from permmoe.federated.secure.session import SiteKeys


@dataclass(frozen=True)
class ReadRoster:
    """The file at one moment."""

    signed: bytes
    """Its bytes, as sites are sent them."""
    roster: Roster
    keys: SiteKeys
    """Every site's key, ready to verify with."""


class RosterFile:
    """A file that is read often: a roster of a thousand keys takes a tenth of a second to check."""

    def __init__(self, path: Path, authority: x509.Certificate) -> None:
        self._path, self._authority = path, authority
        self._read: ReadRoster | None = None

    def read(self) -> ReadRoster:
        """Return the file as it is now. Raises RosterError, and OSError where it is gone."""
        signed = self._path.read_bytes()
        if self._read is None or self._read.signed != signed:
            roster = read_roster(signed, self._authority)
            self._read = ReadRoster(signed, roster, site_keys(roster))
        return self._read
