"""What a coordinator sees of a federation: the record that is followed, the page, the metrics, the health check."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from permmoe_server.protocol.rules import SITE_ERROR, reply_reason
from permmoe_server.status.admin import make_admin, serve_admin
from permmoe_server.status.page import page
from permmoe_server.status.snapshot import (
    CoordinatorStatus,
    SiteStatus,
    StatusBoard,
    headline,
    kept_round,
    parse_status,
    status_json,
)
from permmoe_server.status.terminal import fetch_status, status_text
from permmoe_server.studies.round_log import RoundLog

NOW = datetime(2026, 3, 5, 7, 11, tzinfo=UTC)
HOSTILE = '<script>alert("x")</script>'


def site(name: str, node: int, rejected: str | None = None) -> dict[str, Any]:
    modules = ["head", "encoder/t1"] if rejected is None else []
    return {"node": node, "site": name, "bytes_down": 11, "bytes_up": 7, "modules": modules, "rejected": rejected}


def line(number: int, *, is_aggregated: bool = True, rmse: float = 2.0) -> str:
    sums = {"t1": {"n": 13, "squared": 13 * rmse**2}, "t1+tau": {"n": 5, "squared": 5 * rmse**2}}
    record = {
        "round": number,
        "is_aggregated": is_aggregated,
        "seconds": 3.0,
        "train_loss": 1.5,
        "sites": [site("north", 17), site("south", 19, "not_finite"), site("west", 23, "PatientError12345")],
        "validation": {"sums": sums, "rejected": {}} if is_aggregated else None,
        "test": None,
    }
    return json.dumps(record) + "\n"


@pytest.fixture
def status(tmp_path: Path) -> CoordinatorStatus:
    path = tmp_path / "rounds.jsonl"
    path.write_text("".join(line(n, rmse=3.0 / n) for n in (1, 2, 3)))
    sites = (SiteStatus("north", True, NOW, 3), SiteStatus("south", False, NOW, None, "not_finite"))
    return CoordinatorStatus(
        federation="Tiny", roster_serial=3, started=NOW, study="s", study_digest="d" * 64, phase="running",
        rounds_total=7, records=RoundLog(path).read(), sites=sites, refusals={"handshake": 5, "rate": 0},
        is_synthetic=True,
    )  # fmt: skip


def test_the_round_that_is_kept_is_the_best_or_the_last_as_the_study_says(
    status: CoordinatorStatus, tmp_path: Path
) -> None:
    path = tmp_path / "rising.jsonl"
    path.write_text("".join(line(n, rmse=float(n)) for n in (1, 2, 3)))
    rising = replace(status, records=RoundLog(path).read())
    assert kept_round(rising) == 1 and kept_round(replace(rising, keeps_last=True)) == 3
    assert kept_round(replace(rising, records=())) is None


def test_a_record_is_followed_line_by_line_and_a_torn_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    log = RoundLog(path)
    assert log.read() == ()
    path.write_text(line(1) + line(2)[:40])
    assert [r.round for r in log.read()] == [1]
    path.write_text(line(1) + line(2))
    assert [r.round for r in log.read()] == [1, 2]
    assert [r.round for r in log.read()] == [1, 2]


def test_a_record_that_was_cut_back_and_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    path.write_text(line(1) + line(2, rmse=3.0))
    log = RoundLog(path)
    log.read()
    path.write_text(line(1) + line(2, rmse=1.0) + line(3))
    assert [r.round for r in log.read()] == [1, 2, 3]
    assert log.read()[1].validation["t1"].rmse == pytest.approx(1.0)


def test_a_line_that_is_no_round_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    path.write_text(line(1) + "garbage\n" + line(2))
    assert [r.round for r in RoundLog(path).read()] == [1, 2]


def test_a_try_that_failed_is_no_round_that_is_done(tmp_path: Path, status: CoordinatorStatus) -> None:
    path = tmp_path / "tries.jsonl"
    path.write_text(line(1) + line(2, is_aggregated=False) + line(2, is_aggregated=False))
    tried = replace(status, records=RoundLog(path).read())
    assert tried.rounds_done == 1 and headline(tried).startswith("Round 2 of 7 is running")


class Parsed(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_says_what_a_coordinator_asks(status: CoordinatorStatus) -> None:
    found = Parsed(page(status, NOW))
    text = " ".join(" ".join(found.words).split())
    for fact in (
        "Round 4 of 7 is running; 1 of 2 sites online",
        "north",
        "t1+tau",
        "not_finite",
        "handshake",
        "SYNTHETIC",
    ):
        assert fact in text, fact
    assert reply_reason("not_finite") in text and SITE_ERROR in text
    assert "script" not in found.tags and all(link.startswith("/") for link in found.links)


def test_nothing_that_somebody_chose_becomes_markup(status: CoordinatorStatus) -> None:
    sites = (SiteStatus(HOSTILE, True, NOW, 1, HOSTILE),)
    text = page(replace(status, federation=HOSTILE, study=HOSTILE, detail=HOSTILE, sites=sites), NOW)
    assert "<script" not in text


def test_the_status_comes_back_from_its_json(status: CoordinatorStatus) -> None:
    assert parse_status(status_json(status)) == status


def test_a_terminal_shows_texts_literally(status: CoordinatorStatus) -> None:
    console = Console(record=True, width=150)
    console.print(status_text(replace(status, detail="[bold]\x1b[2J evil"), NOW))
    text = console.export_text()
    assert "[bold]" in text and "\x1b" not in text and "SYNTHETIC" in text


def test_every_rule_of_replies_has_a_sentence() -> None:
    import re

    from permmoe_server.protocol import acceptance

    source = Path(acceptance.__file__).read_text()
    for rule in re.findall(r'RejectedReply\("(\w+)"\)', source):
        assert reply_reason(rule) != SITE_ERROR, rule


@contextmanager
def served(board: StatusBoard, **settings: float) -> Iterator[str]:
    server = serve_admin(make_admin(board, **settings), port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.config.port}"
    finally:
        server.should_exit = True
        thread.join(20)


def test_the_admin_port_answers_get_requests_to_its_own_name_alone(status: CoordinatorStatus) -> None:
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
def test_health_follows_the_phase(phase: str, code: int, status: CoordinatorStatus) -> None:
    with served(StatusBoard(replace(status, phase=phase))) as url:
        answer = httpx.get(f"{url}/health")
        assert (answer.status_code, answer.text.strip()) == (code, phase)


def test_a_coordinator_that_is_stuck_is_not_healthy(status: CoordinatorStatus) -> None:
    clock = [0.0]
    board = StatusBoard(status, lambda: clock[0])
    with served(board) as url:
        clock[0] = 61.0
        assert httpx.get(f"{url}/health").text.strip() == "stale"


def test_metrics_are_prometheus_and_hold_no_word_that_a_site_chose(status: CoordinatorStatus) -> None:
    with served(StatusBoard(status)) as url:
        text = httpx.get(f"{url}/metrics").text
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["permmoe_rounds_done",] == 3 and found["permmoe_sites_online",] == 1
    assert found["permmoe_rejected_replies_total", "not_finite"] == 3
    assert found["permmoe_rejected_replies_total", "site_error"] == 3
    assert found["permmoe_gateway_refusals_total", "handshake"] == 5
    assert found["permmoe_validation_rmse_points", "t1", "synthetic"] == pytest.approx(1.0)
    assert "PatientError12345" not in text
