"""What a coordinator that runs for years has to look after: certificates that end, versions that differ, the disk."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from cryptography import x509

from permmoe.errors import ConfigurationError
from permmoe.runtime.command_line import installed_version
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.authority import load_certificate
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.papers import read_versions
from permmoe_server.status.coordinator_status import Machine

LOG = logging.getLogger("permmoe.server")

LOOK_SECONDS = 60.0
"""Between two looks at certificates and disk."""
SOON_DAYS = 14
"""A server certificate that ends within this time is worth a warning."""


class Upkeep:
    """Looks from time to time, and gives sites new certificates before theirs end."""

    def __init__(self, folder: FederationFolder) -> None:
        self._folder, self._look_at = folder, 0.0
        self._warned: set[tuple[str, str]] = set()
        self.machine: Machine | None = None
        self.certificate_ends: dict[str, datetime] = {}
        """Site -> when its newest certificate ends."""

    def look(self, seconds: float, now: datetime) -> None:
        """Look, where it is time to; `seconds` is monotonic."""
        if seconds < self._look_at:
            return
        self._look_at = seconds + LOOK_SECONDS
        folder = self._folder
        try:
            for site in administration.renew_due(folder, now):
                LOG.info("site %s has a new certificate, which its client fetches", site)
        except ConfigurationError:
            # Another command is changing the folder; there is time.
            pass
        ends = {path.stem: _end(path) for path in folder.certificates.glob("*.crt")}
        self.certificate_ends = {site: end for site, end in ends.items() if end is not None}
        server, authority = load_certificate(folder.server), load_certificate(folder.authority)
        self.machine = Machine(
            installed_version(),
            server.not_valid_after_utc,
            authority.not_valid_after_utc,
            shutil.disk_usage(folder.path).free,
        )
        if (server.not_valid_after_utc - now).days < SOON_DAYS:
            self._warn_once(
                "certificate",
                f"{now:%F}",
                f"the server's certificate ends on {server.not_valid_after_utc:%Y-%m-%d}; run permmoe-server "
                "rotate-certificate, then start permmoe-server again",
            )

    def versions(self, elsewhere: Mapping[str, str]) -> dict[str, str]:
        """The version of each site that has said one, to a region those `elsewhere`; one that is not the coordinator's
        is logged once."""
        own, versions = installed_version(), {**elsewhere, **read_versions(self._folder.versions)}
        for site, version in versions.items():
            if version != own:
                self._warn_once(
                    site,
                    version,
                    f"site {site} runs permmoe {version} and this coordinator {own}: rounds may fail until both run "
                    "one version",
                )
        return versions

    def _warn_once(self, what: str, state: str, sentence: str) -> None:
        if (what, state) not in self._warned:
            self._warned.add((what, state))
            LOG.warning("%s", sentence)


def _end(path: Path) -> datetime | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None
