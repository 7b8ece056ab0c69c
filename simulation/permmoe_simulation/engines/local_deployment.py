"""A federation of real processes on this machine, for demo and tests: a coordinator, hospitals, TLS between them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from permmoe.errors import PermmoeError
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.regions import add_region
from permmoe_server.settings import read_server
from permmoe_server.status.coordinator_status import CoordinatorStatus, StatusError
from permmoe_server.status.terminal import fetch_status

POLL_SECONDS = 0.1
Value = TypeVar("Value")


class TooLate(PermmoeError):
    """Something that was waited for did not come."""


@dataclass(frozen=True)
class Deployment:
    """Where everything lies, and how to start it."""

    folder: FederationFolder
    sites: Mapping[str, Path]
    """Site -> its site.yaml."""
    logs: Path

    def start_server(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`permmoe-server` with the folder's settings."""
        return self._start("server", "permmoe-server", "--config", str(self.folder.settings), *arguments)

    def start_region(self, name: str) -> subprocess.Popen[bytes]:
        """`permmoe-server region` with a region's folder."""
        return self._start(f"region-{name}", "permmoe-server", "region", str(self.folder.region(name).path))

    def start_client(self, site: str) -> subprocess.Popen[bytes]:
        """A hospital's `permmoe-client`."""
        return self._start(site, "permmoe-client", "--site", str(self.sites[site]))

    def status(self) -> CoordinatorStatus | None:
        """What the coordinator says of itself; None while it says nothing."""
        settings = read_server(self.folder.settings)
        try:
            return fetch_status(settings.admin_host, settings.admin_port)
        except StatusError:
            return None

    def wait_for(self, claim: Callable[[CoordinatorStatus], bool], what: str, seconds: float) -> CoordinatorStatus:
        """The first status for which the claim holds. Raises TooLate."""

        def found() -> CoordinatorStatus | None:
            status = self.status()
            return status if status and claim(status) else None

        return wait_for(found, f"{what} (logs in {self.logs})", seconds)

    def _start(self, name: str, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        self.logs.mkdir(parents=True, exist_ok=True)
        command = [str(Path(sys.executable).parent / program), *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        with (self.logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)


def deploy(
    folder: Path,
    name: str,
    sites: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any] | None = None,
    regions: Mapping[str, Collection[str]] | None = None,
) -> Deployment:
    """Found a federation and unpack a kit for each site, as its people would.

    `sites`: site -> what it writes into its site.yaml; `settings`: what the coordinator, and each region, writes into
    server.yaml; `regions`: region -> its sites, the others are the coordinator's own. All ports are free ones of
    127.0.0.1.
    """
    federation = FederationFolder(folder / "federation")
    ports = dict(zip(("port", "admin_port", "health_port"), free_ports(3), strict=True))
    administration.init(federation, name, "127.0.0.1", ports["port"])
    _overlay(federation.settings, {**ports, "listen": "127.0.0.1", **(settings or {})})
    homes: dict[str, str] = {}
    for region, of_region in (regions or {}).items():
        found_region(federation, region, settings)
        homes |= dict.fromkeys(of_region, region)
    files = {site: join(federation, site, own, homes.get(site, "")) for site, own in sites.items()}
    return Deployment(federation, files, folder / "logs")


def found_region(federation: FederationFolder, name: str, settings: Mapping[str, Any] | None = None) -> None:
    """Add a region at a free port of 127.0.0.1; `settings`: what it writes into server.yaml."""
    add_region(federation, name, "127.0.0.1", *free_ports(1))
    _overlay(federation.region(name).settings, {"listen": "127.0.0.1", **(settings or {})})


def join(federation: FederationFolder, site: str, own: Mapping[str, Any], region: str = "") -> Path:
    """Add a site and unpack its kit beside the federation's folder; return its site.yaml, with its `own` settings."""
    kit = administration.add_site(federation, site, region=region)
    file = unpack_kit(kit, federation.path.parent / "hospitals")
    _overlay(file, own)
    return file


def unpack_kit(kit: Path, folder: Path) -> Path:
    """The site.yaml of a kit, unpacked with the modes that `unzip` gives its files."""
    with zipfile.ZipFile(kit) as archive:
        archive.extractall(folder)
        for entry in archive.infolist():
            (folder / entry.filename).chmod(entry.external_attr >> 16)
    return folder / kit.stem / "site.yaml"


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens at now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(found.getsockname()[1]) for found in sockets]


def wait_for(find: Callable[[], Value | None], what: str, seconds: float, poll_seconds: float = POLL_SECONDS) -> Value:
    """The first value found. Raises TooLate."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = find()
        if found is not None:
            return found
        time.sleep(poll_seconds)
    raise TooLate(f"{what}: not within {seconds:.0f} s")


@contextmanager
def ended(processes: Sequence[subprocess.Popen[bytes]] | list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """See that processes, those added meanwhile included, have ended when the block has."""
    try:
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _overlay(path: Path, changes: Mapping[str, Any]) -> None:
    settings = {**yaml.safe_load(path.read_text()), **changes}
    # A site has one kind of data: the template's stands only where nothing else is named.
    if "folders" in changes:
        settings.pop("manifest", None)
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
