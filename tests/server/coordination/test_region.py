"""A region that is started: only from a whole folder of its own, and what it was told before stays."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from permmoe.errors import ConfigurationError
from permmoe_server.coordination.region import run_region
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.folder_locks import running
from permmoe_server.provisioning.regions import add_region
from permmoe_simulation.engines.local_deployment import free_ports


@pytest.fixture
def federation(tmp_path: Path) -> FederationFolder:
    made = FederationFolder(tmp_path / "federation")
    administration.init(made, "Dementia 7", "127.0.0.1")
    add_region(made, "west", "127.0.0.1", free_ports(1)[0])
    return made


def start(folder: FederationFolder) -> None:
    """Start a region, and end it before it has started a program."""
    stop = threading.Event()
    stop.set()
    run_region(folder, stop)


def test_a_start_keeps_the_secret_and_the_papers_and_forgets_nodes_and_messages(federation: FederationFolder) -> None:
    region = federation.region("west")
    secret = region.executor_secret.read_bytes()
    region.state.mkdir()
    region.superlink_database.write_bytes(b"old")
    region.received.mkdir(parents=True)
    start(region)
    assert region.executor_secret.read_bytes() == secret and region.received.is_dir()
    assert not region.superlink_database.exists() and region.state.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_no_whole_region_of_ones_own_is_refused(federation: FederationFolder, tmp_path: Path) -> None:
    region = federation.region("west")
    federation.executor_secret.write_bytes(b"as a coordinator leaves it")
    with pytest.raises(ConfigurationError, match="no region's folder"):
        start(federation)
    with pytest.raises(ConfigurationError):
        start(FederationFolder(tmp_path / "nowhere"))
    region.executor_secret.chmod(0o644)
    with pytest.raises(ConfigurationError, match="can be read by others"):
        start(region)
    region.executor_secret.unlink()
    with pytest.raises(ConfigurationError, match="not a whole one"):
        start(region)
    assert not region.state.exists()


def test_a_region_that_runs_already_or_whose_port_is_taken_is_refused(federation: FederationFolder) -> None:
    region = federation.region("west")
    with running(region), pytest.raises(ConfigurationError, match="is running on"):
        start(region)
    settings = region.settings.read_text()
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        lines = [f"port: {port}" if line.startswith("port:") else line for line in settings.splitlines()]
        region.settings.write_text("\n".join(lines))
        with pytest.raises(ConfigurationError, match="another program listens there"):
            start(region)
    assert not region.state.exists()
