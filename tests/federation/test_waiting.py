"""A study that waits for its hospitals, as real processes over real TLS."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from permmoe.errors import ConfigurationError
from permmoe_client.cli import app as client_app
from permmoe_client.connection import fleet
from permmoe_client.connection.node import run_node
from permmoe_server.cli import app as server_app
from permmoe_server.coordination.coordinator import coordinate
from permmoe_server.protocol.rules import reply_reason
from permmoe_server.settings import read_server
from permmoe_server.status.coordinator_status import CoordinatorStatus
from permmoe_server.studies.study_folder import CURRENT_FILE
from permmoe_simulation.engines.local_deployment import Deployment, ended
from tests.support.federation_processes import Started, deploy_tiny, start_client, start_server
from tests.support.tiny_federation import SITES, tiny_plan

# One after the other: each starts eight processes.
pytestmark = pytest.mark.xdist_group("deployment")

PATIENCE_SECONDS = 300.0


def approvals(status: CoordinatorStatus) -> dict[str, bool | None]:
    return {site.name: site.has_approved for site in status.sites}


def admin(deployment: Deployment, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{read_server(deployment.folder.settings).admin_port}{path}", timeout=60)


@pytest.mark.parametrize("secure", [False, True])
def test_an_approval_that_comes_later_starts_the_study_without_a_hand_on_the_coordinator(
    secure: bool, tmp_path: Path
) -> None:
    plan = tiny_plan(rounds=2, min_sites=3, secure=secure, secure_threshold=0.5)
    late = {"approved_studies": []}
    deployment = deploy_tiny(tmp_path / "there", plan, {"south": late, "west": late})
    processes: list[Started] = []
    with ended(processes):
        processes.append(start_server(deployment, "--study", str(tmp_path / "there" / "study.yaml"), "--stay"))
        processes += [start_client(deployment, name) for name in SITES]
        wanted = {"north": True, "south": False, "west": False}
        status = deployment.wait_for(lambda s: approvals(s) == wanted, "the sites' answers", PATIENCE_SECONDS)
        assert status.phase == "waiting" and "not approved yet: south, west" in status.detail
        assert "not approved yet: south, west" in admin(deployment, "/").text
        assert 'permmoe_site_approved{site="south"} 0.0' in admin(deployment, "/metrics").text
        assert admin(deployment, "/health").status_code == 200
        for site in ("south", "west"):
            approved = CliRunner().invoke(client_app, ["approve", "--yes", "--site", str(deployment.sites[site])])
            assert approved.exit_code == 0, approved.output
        status = deployment.wait_for(lambda s: s.phase in ("finished", "failed"), "the end", PATIENCE_SECONDS)
    assert (status.phase, status.rounds_done, status.rounds_lost) == ("finished", 2, 0), status.detail
    assert all(record.is_aggregated and not record.rejections for record in status.records)


@contextmanager
def older_client(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hospital's client of a version that did not sign its replies."""
    stop = threading.Event()
    thread = threading.Thread(target=run_node, args=(site, stop), daemon=True)
    with monkeypatch.context() as patch:
        patch.setattr(fleet, "sign_reply", lambda name, key: b"")
        thread.start()
        yield
        stop.set()
        thread.join(PATIENCE_SECONDS)


def test_a_client_too_old_to_sign_is_named_and_the_study_starts_once_it_is_upgraded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny_plan(rounds=1, min_sites=3)
    deployment = deploy_tiny(tmp_path / "there", plan)
    processes: list[Started] = []
    with ended(processes):
        processes.append(start_server(deployment, "--study", str(tmp_path / "there" / "study.yaml"), "--stay"))
        processes += [start_client(deployment, name) for name in ("north", "south")]
        with older_client(deployment.sites["west"], monkeypatch):
            status = deployment.wait_for(lambda s: "do not count" in s.detail, "the answers", PATIENCE_SECONDS)
        assert (
            status.phase == "waiting" and "2 are. approved: north, south; answers do not count: west" in status.detail
        )
        assert f"The answer of west: {reply_reason('unsigned')}" in status.detail
        assert "has to be upgraded" in admin(deployment, "/").text
        processes.append(start_client(deployment, "west"))
        status = deployment.wait_for(lambda s: s.phase in ("finished", "failed"), "the end", PATIENCE_SECONDS)
    assert (status.phase, status.rounds_done, status.rounds_lost) == ("finished", 1, 0), status.detail
    assert all(record.is_aggregated and not record.rejections for record in status.records)


def test_without_stay_a_wait_ends_with_the_status_that_makes_a_service_start_again(tmp_path: Path) -> None:
    plan = tiny_plan(rounds=1, min_sites=3)
    deployment = deploy_tiny(tmp_path / "there", plan)
    settings = yaml.safe_load(deployment.folder.settings.read_text())
    deployment.folder.settings.write_text(yaml.safe_dump(settings | {"quorum_seconds": 1}))
    processes: list[Started] = []
    with ended(processes):
        processes.append(server := start_server(deployment, "--study", str(tmp_path / "there" / "study.yaml")))
        assert server.wait(PATIENCE_SECONDS) == 75
    log = (deployment.logs / "server.log").read_text()
    assert "offline: north, south, west" in log and "quorum_seconds" in log


@pytest.mark.parametrize("setting", ["port", "admin_port", "health_port"])
def test_a_port_in_use_is_named_and_the_start_changes_nothing(setting: str, tmp_path: Path) -> None:
    deployment = deploy_tiny(tmp_path / "there", tiny_plan())
    port = getattr(read_server(deployment.folder.settings), setting)
    before = {path: path.read_bytes() for path in deployment.folder.path.rglob("*") if path.is_file()}
    arguments = ["--config", str(deployment.folder.settings), "--study", str(tmp_path / "there" / "study.yaml")]
    with socket.create_server(("127.0.0.1", port)):
        server = Started("permmoe-server", deployment.logs / "server.log", *arguments)
        assert server.wait(PATIENCE_SECONDS) == 2
    said = " ".join((deployment.logs / "server.log").read_text().split())
    assert f"port {port}" in said and f"another {setting}" in said
    after = {path: path.read_bytes() for path in deployment.folder.path.rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if path.name != ".running"} == before


def test_a_second_start_that_is_refused_leaves_the_running_study_the_current_one(tmp_path: Path) -> None:
    deployment = deploy_tiny(tmp_path / "there", tiny_plan())
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(tiny_plan(rounds=7).model_dump(mode="json") | {"name": "other"}))
    processes: list[Started] = []
    with ended(processes):
        processes.append(start_server(deployment, "--study", str(tmp_path / "there" / "study.yaml"), "--stay"))
        before = (deployment.folder.studies / CURRENT_FILE).read_text()
        arguments = ["--config", str(deployment.folder.settings), "--study", str(other)]
        second = Started("permmoe-server", deployment.logs / "second.log", *arguments)
        assert second.wait(PATIENCE_SECONDS) == 2
        assert "already" in (deployment.logs / "second.log").read_text()
        assert (deployment.folder.studies / CURRENT_FILE).read_text() == before
        assert [path.name for path in deployment.folder.studies.iterdir() if path.is_dir()] == [before]


@pytest.mark.parametrize("key", ["ca.key", "server.key"])
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_server_whose_keys_others_can_read_does_not_start_and_names_the_remedy(
    key: str, mode: int, tmp_path: Path
) -> None:
    deployment = deploy_tiny(tmp_path / "there", tiny_plan())
    path = deployment.folder.path / key
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"chmod 600 {path}"):
        coordinate(deployment.folder, None, threading.Event())
    assert not deployment.folder.state.exists()


def test_a_study_stops_after_a_round_goes_on_when_it_is_to_and_a_hangup_ends_both_sides_cleanly(
    tmp_path: Path,
) -> None:
    # Enough rounds that it is stopped before the last one.
    plan = tiny_plan(rounds=400, min_sites=1, evaluate_every=0)
    deployment = deploy_tiny(tmp_path / "there", plan)
    folder = str(deployment.folder.path)
    processes: list[Started] = []
    with ended(processes):
        server = start_server(deployment, "--study", str(tmp_path / "there" / "study.yaml"), "--stay")
        client = start_client(deployment, "north")
        processes += [server, client]
        deployment.wait_for(lambda s: s.rounds_done >= 1, "round 1", PATIENCE_SECONDS)
        assert CliRunner().invoke(server_app, ["study", "stop", folder]).exit_code == 0
        stopped = deployment.wait_for(lambda s: s.phase == "stopped", "a stopped study", PATIENCE_SECONDS)
        assert stopped.rounds_done < 400 and admin(deployment, "/health").status_code == 200
        assert CliRunner().invoke(server_app, ["study", "resume", folder]).exit_code == 0
        on = deployment.wait_for(lambda s: s.rounds_done > stopped.rounds_done, "another round", PATIENCE_SECONDS)
        assert on.phase == "running" and [r.round for r in on.records] == list(range(1, on.rounds_done + 1))
        for process in (client, server):
            process.send_signal(signal.SIGHUP)
            assert process.wait(PATIENCE_SECONDS) == 0
