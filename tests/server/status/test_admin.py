"""The admin port: who may ask it, and the health check."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import httpx
import pytest

from permmoe_server.status.board import StatusBoard
from permmoe_server.status.coordinator_status import CoordinatorStatus
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
