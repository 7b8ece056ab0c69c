"""The admin port: who may ask it, and the health check."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from permmoe_server.status.board import StatusBoard
from permmoe_server.status.coordinator_status import CoordinatorStatus, Machine
from permmoe_server.status.terminal import fetch_status

Served = Callable[[StatusBoard], AbstractContextManager[str]]


def test_the_admin_port_answers_get_requests_to_its_own_name_alone(status: CoordinatorStatus, served: Served) -> None:
    with served(StatusBoard(status)) as url:
        answer = httpx.get(url)
        assert answer.status_code == 200 and "default-src 'none'" in answer.headers["content-security-policy"]
        assert httpx.get(url, headers={"host": "evil.example"}).status_code == 421
        assert httpx.post(url).status_code == 405
        assert httpx.get(f"{url}/nothing").status_code == 404
        port = int(url.rpartition(":")[2])
        assert fetch_status("127.0.0.1", port) == status


@pytest.mark.parametrize(
    ("phase", "code"), [("starting", 503), ("waiting", 200), ("running", 200), ("finished", 200), ("failed", 503)]
)
def test_health_follows_the_phase(phase: str, code: int, status: CoordinatorStatus, served: Served) -> None:
    with served(StatusBoard(replace(status, phase=phase))) as url:
        answer = httpx.get(f"{url}/health")
        assert (answer.status_code, answer.text.strip()) == (code, phase)


def test_a_coordinator_that_is_stuck_is_not_healthy(status: CoordinatorStatus, served: Served) -> None:
    clock = [0.0]
    board = StatusBoard(status, lambda: clock[0])
    with served(board) as url:
        clock[0] = 61.0
        assert httpx.get(f"{url}/health").text.strip() == "stale"


def test_head_is_answered_as_get_is_without_the_body(status: CoordinatorStatus, served: Served) -> None:
    with served(StatusBoard(status)) as url:
        for path in ("/", "/health", "/metrics", "/status.json"):
            answer = httpx.head(f"{url}{path}")
            assert (answer.status_code, answer.content) == (200, b"")
            assert answer.headers["content-security-policy"]


@pytest.mark.parametrize(("days", "code", "word"), [(1, 200, "waiting"), (-1, 503, "certificate-expired")])
def test_health_tells_what_is_waited_for_and_the_state_of_the_machine(
    days: int, code: int, word: str, status: CoordinatorStatus, served: Served
) -> None:
    end = datetime.now(UTC) + timedelta(days=days)
    machine = Machine("1.2.3", end, end, 5_000_000_000)
    board = StatusBoard(replace(status, phase="waiting", detail="2 sites have to approve.", machine=machine))
    with served(board) as url:
        answer, metrics = httpx.get(f"{url}/health"), httpx.get(f"{url}/metrics").text
    assert (answer.status_code, answer.text.splitlines()[0]) == (code, word)
    for fact in ("2 sites have to approve.", "version: 1.2.3", f"{end:%Y-%m-%d}", "free"):
        assert fact in answer.text, fact
    assert "permmoe_disk_free_bytes 5e+09" in metrics and "permmoe_study_stalled 0.0" in metrics
    assert 'permmoe_build_info{version="1.2.3"} 1.0' in metrics and 'kind="server"' in metrics


def test_a_stalled_study_is_not_healthy(status: CoordinatorStatus, served: Served) -> None:
    with served(StatusBoard(replace(status, phase="stalled", detail="make room"))) as url:
        answer, metrics = httpx.get(f"{url}/health"), httpx.get(f"{url}/metrics").text
    assert (answer.status_code, answer.text) == (503, "stalled\nmake room\n") and "permmoe_study_stalled 1.0" in metrics
