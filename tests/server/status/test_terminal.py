"""`permmoe-server status` in a terminal."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rich.console import Console

from permmoe_server.status.coordinator_status import CoordinatorStatus, RegionStatus, parse_status, status_json
from permmoe_server.status.page import page
from permmoe_server.status.terminal import status_text
from permmoe_server.studies.round_log import RoundLog
from tests.support.round_lines import private_round_line, secure_round_line


def test_of_a_secure_study_a_terminal_says_how_many_modules_enough_sites_trained(
    status: CoordinatorStatus, now: datetime, tmp_path: Path
) -> None:
    path = tmp_path / "secure.jsonl"
    path.write_text(secure_round_line(1, ("head", "trunk"), ("encoder/tau",)))
    console = Console(record=True, width=150)
    console.print(status_text(replace(status, records=RoundLog(path).read()), now))
    assert "Modules that enough sites trained in round 1: 2, too few: 1" in console.export_text()


def test_an_error_that_is_estimated_behind_noise_stands_beside_its_bounds(
    status: CoordinatorStatus, now: datetime, tmp_path: Path
) -> None:
    path = tmp_path / "private.jsonl"
    path.write_text(private_round_line(1))
    private = replace(status, records=RoundLog(path).read())
    console = Console(record=True, width=150)
    console.print(status_text(private, now))
    assert "2.00, 1.25 to 3.50" in console.export_text() and "2.00, 1.25 to 3.50" in page(private, now)
    assert parse_status(status_json(private)) == private
    assert " to 3.50" not in page(status, now)


def test_a_terminal_shows_texts_literally(status: CoordinatorStatus, now: datetime) -> None:
    console = Console(record=True, width=150)
    console.print(status_text(replace(status, detail="[bold]\x1b[2J evil"), now))
    text = console.export_text()
    assert "[bold]" in text and "\x1b" not in text and "SYNTHETIC" in text


def test_a_terminal_and_the_page_name_the_regions_that_do_not_answer(status: CoordinatorStatus, now: datetime) -> None:
    regions = tuple(RegionStatus(name, name == "delta") for name in ("alps", "coast", "delta"))
    away = replace(status, regions=regions)
    console = Console(record=True, width=150)
    console.print(status_text(away, now))
    assert "No answer from region alps, coast." in console.export_text()
    assert "no answer from region alps, coast" in page(away, now)
    assert "no answer" not in page(status, now)
    assert parse_status(status_json(away)) == away
