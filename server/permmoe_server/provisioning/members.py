"""The members of the federation: the gateway admits a certificate whose key is on the signed roster."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from permmoe.federated.roster import RosterError, read_roster

LOG = logging.getLogger("permmoe.gateway")


class Members:
    """The keys on the roster's file as it is now: a site that is removed is refused at its next request.

    The constructor raises RosterError for a roster with an invalid signature or content. Where a later roster is
    invalid, the last valid one stays in force.
    """

    def __init__(self, roster: Path, authority: x509.Certificate) -> None:
        self._path, self._authority = roster, authority
        self._seen = self._state()
        self._sites = self._read()

    def includes(self, certificate: bytes) -> bool:
        """Return whether a certificate (DER), which TLS has verified, is for a key on the roster."""
        return self.site_of(certificate) is not None

    def site_of(self, certificate: bytes) -> str | None:
        """Return the site whose key a certificate (DER) is for, which TLS has verified; None where it has none."""
        try:
            state = self._state()
            if state != self._seen:
                self._sites, self._seen = self._read(), state
        except (OSError, RosterError) as error:
            LOG.error("the roster cannot be read again (%s); the one before it stays in force", type(error).__name__)
        return self._sites.get(_key_of(certificate))

    def _state(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> dict[str, str]:
        """Key -> site."""
        return {site.public_key: site.name for site in read_roster(self._path.read_bytes(), self._authority).sites}


@lru_cache(maxsize=1024)
def _key_of(certificate: bytes) -> str:
    key = x509.load_der_x509_certificate(certificate).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
