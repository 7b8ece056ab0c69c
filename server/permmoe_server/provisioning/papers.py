"""What the gateway gives a member about itself, and which version each member says that it runs."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from cryptography import x509

from permmoe.federated.membership import MemberPapers, known_version, write_papers
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.members import Members
from permmoe_server.studies.receipt_file import newest_receipt


class PapersDesk:
    """Answers members from the folder as it is at that moment."""

    def __init__(self, folder: FederationFolder, members: Members, version: str) -> None:
        self._folder, self._members, self._version = folder, members, version
        self._versions: dict[str, str] = {}
        self._lock = threading.Lock()

    def answer(self, certificate: bytes, version: str) -> bytes:
        """The papers of the member with this certificate (DER), which TLS has verified; `version` is its own word."""
        site = self._members.site_of(certificate)
        if site is not None:
            self._note(site, known_version(version))
        newest = self._newest(site, certificate) if site is not None else None
        receipt = newest_receipt(self._folder.studies, site) if site is not None else None
        line = receipt.line() if receipt else None
        return write_papers(MemberPapers(self._folder.roster.read_bytes(), newest, self._version, line))

    def _newest(self, site: str, shown: bytes) -> bytes | None:
        """The certificate that is kept for a site, if it is for the key that this connection has shown."""
        try:
            pem = self._folder.certificate_of(site).read_bytes()
            kept = x509.load_pem_x509_certificate(pem)
        except (OSError, ValueError):
            return None
        return pem if kept.public_key() == x509.load_der_x509_certificate(shown).public_key() else None

    def _note(self, site: str, version: str) -> None:
        with self._lock:
            if self._versions.get(site) != version:
                self._versions[site] = version
                write_file(self._folder.versions, json.dumps(self._versions), mode=PUBLIC_MODE, is_durable=False)


def read_versions(path: Path) -> dict[str, str]:
    """The version that each site said last; sites that said none are not there."""
    try:
        found = json.loads(path.read_text())
        return {str(site): known_version(version) for site, version in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}
