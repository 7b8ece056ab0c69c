"""The record of rounds as the coordinator follows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from permmoe_server.studies.round_log import RoundLog
from tests.support.round_lines import round_line


def test_a_record_is_followed_line_by_line_and_a_torn_line_waits(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    log = RoundLog(path)
    assert log.read() == ()
    path.write_text(round_line(1) + round_line(2)[:40])
    assert [r.round for r in log.read()] == [1]
    path.write_text(round_line(1) + round_line(2))
    assert [r.round for r in log.read()] == [1, 2]
    assert [r.round for r in log.read()] == [1, 2]


def test_a_record_that_was_cut_back_and_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    path.write_text(round_line(1) + round_line(2, rmse=3.0))
    log = RoundLog(path)
    log.read()
    path.write_text(round_line(1) + round_line(2, rmse=1.0) + round_line(3))
    assert [r.round for r in log.read()] == [1, 2, 3]
    assert log.read()[1].validation["t1"].rmse == pytest.approx(1.0)


def test_a_line_that_is_no_round_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    path.write_text(round_line(1) + "garbage\n" + round_line(2))
    assert [r.round for r in RoundLog(path).read()] == [1, 2]
