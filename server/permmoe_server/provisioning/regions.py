"""Commands on the regions of a federation: each has a folder in the federation's, which appears and goes as a whole.

    regions/NAME/{ca.crt  server.crt  server.key  roster.signed.json  server.yaml  executor.secret}

A coordinator that runs, and its study, take both up by themselves.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from permmoe.errors import ConfigurationError
from permmoe.federated.roster import SITE_NAME
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe_server.provisioning.administration import authority_of, existing_region, list_sites, write_server
from permmoe_server.provisioning.authority import REGION_NAME, checked_host, issue_server
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.folder_locks import locked, running
from permmoe_server.settings import read_server, region_template


def add_region(folder: FederationFolder, name: str, host: str, port: int = 8443) -> Path:
    """Write the folder of a region; return its path.

    It holds what a gateway and a superlink need, and no key that can add sites. Raises ConfigurationError for a name
    that is taken or invalid, and for an invalid host.
    """
    if not SITE_NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot name a region; use up to 64 of a-z, 0-9, _ and - that begin with a letter or digit"
        )
    with locked(folder):
        region, now = folder.region(name), datetime.now(UTC)
        if region.path.exists():
            raise ConfigurationError(f"region {name!r} is in the federation already; use another name")
        days = read_server(folder.settings).certificate_days
        server = issue_server(authority_of(folder), checked_host(host), now, days, REGION_NAME)
        new = FederationFolder(_beside_regions(folder, "new"))
        try:
            write_file(new.authority, folder.authority.read_bytes(), mode=PUBLIC_MODE)
            write_file(new.settings, region_template(host, port).encode(), mode=PUBLIC_MODE)
            write_file(new.roster, folder.roster.read_bytes(), mode=PUBLIC_MODE)
            write_file(new.executor_secret, secrets.token_bytes(32))
            write_server(new, server)
            folder.regions.mkdir(mode=0o700, exist_ok=True)
            new.path.replace(region.path)
        finally:
            shutil.rmtree(new.path, ignore_errors=True)
    return region.path


def remove_region(folder: FederationFolder, name: str) -> None:
    """Delete the folder of a region that no hospital connects to.

    Raises ConfigurationError for a region that there is not, that hospitals are at home in, or that runs from this
    folder.
    """
    with locked(folder):
        region = existing_region(folder, name)
        if at_home := [site.name for site in list_sites(folder).sites if site.region == name]:
            raise ConfigurationError(
                f"hospitals connect to region {name!r}: {', '.join(at_home)}; move each with permmoe-server renew-site "
                "--region, or remove it with remove-site"
            )
        gone = _beside_regions(folder, "gone")
        try:
            with running(region):
                region.path.replace(gone)
        finally:
            shutil.rmtree(gone, ignore_errors=True)


def _beside_regions(folder: FederationFolder, what: str) -> Path:
    """Return a new folder that is no region's, on the disk of those that are."""
    return Path(tempfile.mkdtemp(prefix=f".region.{what}-", dir=folder.path))
