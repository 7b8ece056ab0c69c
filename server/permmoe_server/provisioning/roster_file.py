"""The signed roster's file, read again where it has changed."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from permmoe.federated.roster import Roster, read_roster


class RosterFile:
    """A file that is read often: a roster of a thousand keys takes a tenth of a second to check."""

    def __init__(self, path: Path, authority: x509.Certificate) -> None:
        self._path, self._authority = path, authority
        self._read: tuple[bytes, Roster] | None = None

    def read(self) -> tuple[bytes, Roster]:
        """Return the file as it is now, and what it says. Raises RosterError, and OSError where it is gone."""
        signed = self._path.read_bytes()
        if self._read is None or self._read[0] != signed:
            self._read = signed, read_roster(signed, self._authority)
        return self._read
