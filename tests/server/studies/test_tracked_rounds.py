"""A coordinator's tracker is told each round once, over all sites, and nothing that its record does not hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from permmoe.runtime.tracking.tracker import Tracking
from permmoe_server.studies.round_log import RoundSummary, summarise
from permmoe_server.studies.tracked_rounds import TrackedRounds
from tests.support.round_lines import round_line
from tests.support.tiny_federation import tiny_plan


class Kept:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, str, Mapping[str, str]]] = []
        self.steps: dict[int, Mapping[str, float]] = {}
        self.ended = 0

    def run(self, group: str, name: str, settings: Mapping[str, str]) -> Kept:
        self.runs.append((group, name, settings))
        return self

    def log(self, figures: Mapping[str, float], step: int) -> None:
        assert step not in self.steps, "a round is tracked once"
        self.steps[step] = figures

    def end(self) -> None:
        self.ended += 1


def rounds(*numbers: int, **options: Any) -> list[RoundSummary]:
    return [summarise(json.loads(round_line(number, **options))) for number in numbers]


def test_each_round_is_tracked_once_as_it_comes_and_the_run_ends_with_the_study() -> None:
    kept = Kept()
    tracked = TrackedRounds(Tracking("test", lambda: kept, print), tiny_plan())
    tracked.show([], is_finished=False)
    assert not kept.runs, "a coordinator that waits connects to nothing"
    tracked.show(rounds(1, 2), is_finished=False)
    tracked.show(rounds(1, 2, 3), is_finished=False)
    tracked.show(rounds(1, 2, 3), is_finished=True)
    tracked.show(rounds(1, 2, 3), is_finished=True)
    assert list(kept.steps) == [1, 2, 3] and kept.ended == 1
    ((group, _, settings),) = kept.runs
    assert group == tiny_plan().name and settings["plan_digest"] == tiny_plan().digest()


def test_figures_are_over_all_sites_and_name_none() -> None:
    kept = Kept()
    TrackedRounds(Tracking("test", lambda: kept, print), tiny_plan()).show(rounds(1, rmse=2.0), is_finished=False)
    figures = kept.steps[1]
    assert figures["validation_rmse/t1-tau"] == 2.0 and figures["validation_visits/t1"] == 13.0
    assert figures["bytes_down"] == 33.0 and figures["sites_accepted"] == 1.0 and figures["replies_left_out"] == 2.0
    assert not any(site in name for name in figures for site in ("north", "south", "west", "Patient"))


def test_a_round_that_changed_nothing_is_not_tracked() -> None:
    kept = Kept()
    TrackedRounds(Tracking("test", lambda: kept, print), tiny_plan()).show(
        rounds(1, is_aggregated=False), is_finished=False
    )
    assert not kept.steps


def test_a_tracker_that_fails_leaves_the_coordinator_running() -> None:
    def down() -> Kept:
        raise ConnectionError

    warnings: list[str] = []
    tracked = TrackedRounds(Tracking("test", down, warnings.append), tiny_plan())
    tracked.show(rounds(1), is_finished=False)
    tracked.show(rounds(1, 2), is_finished=True)
    assert len(warnings) == 1
