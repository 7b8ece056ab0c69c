"""What follows from a status: the kept round and the headline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from permmoe_server.status.coordinator_status import CoordinatorStatus
from permmoe_server.status.findings import headline, kept_round
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
