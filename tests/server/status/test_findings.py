"""What follows from a status: the kept round and the headline."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from rich.console import Console

from permmoe_server.status.coordinator_status import CoordinatorStatus
from permmoe_server.status.findings import headline, kept_round
from permmoe_server.status.page import page
from permmoe_server.status.terminal import status_text
from permmoe_server.studies.round_log import RoundLog
from tests.support.round_lines import round_line


def test_the_round_that_is_kept_is_the_best_or_the_last_as_the_study_says(
    status: CoordinatorStatus, tmp_path: Path
) -> None:
    path = tmp_path / "rising.jsonl"
    path.write_text("".join(round_line(n, rmse=float(n)) for n in (1, 2, 3)))
    rising = replace(status, records=RoundLog(path).read())
    assert kept_round(rising) == 1 and kept_round(replace(rising, keeps_last=True)) == 3
    assert kept_round(replace(rising, records=())) is None


def test_a_round_that_failed_is_not_counted_as_done(tmp_path: Path, status: CoordinatorStatus) -> None:
    path = tmp_path / "tries.jsonl"
    path.write_text(round_line(1) + round_line(2, is_aggregated=False) + round_line(2, is_aggregated=False))
    tried = replace(status, records=RoundLog(path).read())
    assert tried.rounds_done == 1 and headline(tried).startswith("Round 2 of 7 is running")


def test_errors_of_a_study_of_another_score_are_shown_in_its_unit(status: CoordinatorStatus, now: datetime) -> None:
    other = replace(status, unit="MMSE points")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(status_text(other, now))
    for shown in (page(other, now), console.export_text()):
        assert "MMSE points" in shown and "CDR-SB" not in shown
