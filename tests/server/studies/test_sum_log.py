"""The sums of a study on disk: what a coordinator that was killed still knows."""

from __future__ import annotations

from pathlib import Path

from permmoe.federated.secure.session import Session
from permmoe_server.studies.sum_log import FILE, read_sums

SESSION = Session("study", "validation", 3, "model", "nonce")
SITES = ("east", "mid", "north", "south")


def test_sums_are_read_back_by_a_coordinator_that_was_started_again(tmp_path: Path) -> None:
    first = read_sums(tmp_path)
    first.add(SESSION, SITES)
    first.add(SESSION, SITES[:2])
    again = read_sums(tmp_path)
    assert again.account == first.account and again.choose(SITES, 2) == SITES
    assert again.choose(SITES[:3], 2) == SITES[:2]


def test_a_line_that_a_kill_cut_short_is_no_sum_and_the_next_one_is_whole(tmp_path: Path) -> None:
    read_sums(tmp_path).add(SESSION, SITES)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"round":3,"sites":["ea')
    read_sums(tmp_path).add(SESSION, SITES[:2])
    assert read_sums(tmp_path).choose(SITES[1:], 2) == SITES[2:]
    assert len((tmp_path / FILE).read_text().splitlines()) == 2
