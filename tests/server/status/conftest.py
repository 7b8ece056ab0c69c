"""A status of a running study with three rounds, and the admin port that serves a board."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from permmoe_server.status.admin import make_admin, serve_admin
from permmoe_server.status.board import StatusBoard
from permmoe_server.status.coordinator_status import CoordinatorStatus, SiteStatus
from permmoe_server.studies.round_log import RoundLog
from tests.support.patience import PATIENCE_SECONDS
from tests.support.round_lines import round_line

Served = Callable[[StatusBoard], AbstractContextManager[str]]


@pytest.fixture
def now() -> datetime:
    return datetime(2026, 3, 5, 7, 11, tzinfo=UTC)


@pytest.fixture
def status(tmp_path: Path, now: datetime) -> CoordinatorStatus:
    path = tmp_path / "rounds.jsonl"
    path.write_text("".join(round_line(n, rmse=3.0 / n) for n in (1, 2, 3)))
    sites = (SiteStatus("north", True, now, 3), SiteStatus("south", False, now, None, "not_finite"))
    return CoordinatorStatus(
        federation="Tiny", roster_serial=3, started=now, study="s", study_digest="d" * 64, phase="running",
        rounds_total=7, records=RoundLog(path).read(), sites=sites, refusals={"handshake": 5, "rate": 0},
        is_synthetic=True,
    )  # fmt: skip


@pytest.fixture
def served() -> Served:
    """A function that serves a board on an admin port and yields its URL."""

    @contextmanager
    def serve(board: StatusBoard) -> Iterator[str]:
        server = serve_admin(make_admin(board), port=0)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.config.port}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE_SECONDS)

    return serve
