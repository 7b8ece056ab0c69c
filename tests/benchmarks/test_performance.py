"""Goals are measured in turns, and page and table say what was measured. No test here looks at a clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from permmoe.errors import ConfigurationError
from permmoe_benchmarks import performance
from permmoe_benchmarks.goals import ACCURACIES, CANDIDATES, GOALS, NOT_HERE
from permmoe_benchmarks.measurements.registry import SIDES
from permmoe_benchmarks.pages.performance import performance_page


class FakeSides:
    """Measures nothing: has figures for every side, and remembers which were measured in which order."""

    def __init__(self) -> None:
        self.measured: list[str] = []

    def __call__(self, side: str, scale: str) -> dict[str, Any]:
        self.measured.append(side)
        parts = {"total": 4.0, "one": 3.0, "rest": 1.0}
        profile = {"visits": 3, "parts_ms": parts, "operations_ms": {"aten::mm": 2.0}}
        return {
            "seconds": 1.0 + len(self.measured), "training_seconds": 2.0, "overhead": 0.5, "sites": 3, "gflop": 5.0,
            "prediction": [1.0, 2.0], "fp32_gflops": 7.0, "bf16_gflops": 11.0, "memory_gb_a_second": 13.0, "down": 3,
            "up": 2, "full": 5, "mb": 17, "peak_mb_above_model": 19.0, "step_seconds": 1.0, "batch_seconds": 0.01,
            "file_seconds_a_volume": 0.001, "mean_rmse": 1.0, "blind_rmse": 1.5, "epochs": 2, "train_visits": 23,
            "test_visits": 29, "spacing_mm": 4.0, "default_step": profile, "cnn_step": profile,
            "simulated_round": {"sites": 3, "parts_ms": parts},
        }  # fmt: skip


def test_every_goal_has_sides_that_exist() -> None:
    assert {side for goal in (*GOALS, *CANDIDATES) for side in goal.sides} <= set(SIDES)
    assert {*ACCURACIES, "profile"} <= set(SIDES)
    names = [goal.name for goal in (*GOALS, *CANDIDATES)]
    assert len(set(names)) == len(names)


def test_sides_take_turns_and_the_one_that_begins_changes() -> None:
    fake = FakeSides()
    [goal] = [goal for goal in GOALS if goal.name == "fusion"]
    turns, failed = performance.measured_turns([goal], "quick", 3, fake)
    assert not failed
    assert fake.measured == ["fusion", "fusion_loops", "fusion_loops", "fusion", "fusion", "fusion_loops"]
    assert [turn["fusion"]["seconds"] for turn in turns["fusion"]] == [2.0, 5.0, 6.0]


def test_what_fails_is_named_and_the_rest_is_measured() -> None:
    def one_fails(side: str, scale: str) -> dict[str, float]:
        if side == "experts":
            raise ConfigurationError("the side experts failed")
        return {"seconds": 1.0}

    goals = [goal for goal in GOALS if goal.name in ("fusion", "experts")]
    turns, failed = performance.measured_turns(goals, "quick", 2, one_fails)
    assert failed == {"experts": "the side experts failed"} and len(turns["fusion"]) == 2


def test_a_goal_is_evaluated_by_its_median_and_shows_its_spread() -> None:
    [goal] = [goal for goal in GOALS if goal.name == "fusion"]
    turns = [{"fusion": {"seconds": 1.0}, "fusion_loops": {"seconds": other}} for other in (1.7, 1.9, 30.0)]
    summary = performance.summary(goal, {"fusion": turns})
    assert (summary["median"], summary["least"], summary["most"], summary["is_met"]) == (1.9, 1.7, 30.0, True)
    assert performance.summary(goal, {"fusion": turns[:1]})["is_met"] is False


def test_the_page_is_written_from_the_json_and_shows_every_row(tmp_path: Path) -> None:
    performance.write_result(performance.measured_result("quick", "*", 2, FakeSides()), tmp_path / "performance")
    result = json.loads((tmp_path / "performance.json").read_text())
    text = (tmp_path / "performance.md").read_text()
    assert text == performance_page(result)
    for row in (*result["rows"], *result["candidates"], *result["not_measured"]):
        assert f"| {row['says']} |" in text
    assert text.count("**met**") == sum(row["is_met"] is True for row in result["rows"])
    assert text.count("not met") == sum(row["is_met"] is False for row in result["rows"])
    assert text.count("not measured here") == len(NOT_HERE)


def test_figures_of_an_older_run_are_judged_by_the_goals_of_today(tmp_path: Path) -> None:
    result = performance.measured_result("quick", "*", 1, FakeSides())
    stale = {**result, "rows": [row | {"goal": "another", "is_met": None} for row in result["rows"]]}
    gone = stale["rows"][0] | {"name": "a goal that there was"}
    stale["rows"].append(gone)
    performance.write_result(stale, tmp_path / "performance")
    performance.benchmark(page_only=True, out=tmp_path / "performance")
    judged = json.loads((tmp_path / "performance.json").read_text())
    assert judged["rows"] == json.loads(json.dumps([*result["rows"], gone]))


def test_a_named_goal_alone_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "measure_side", FakeSides())
    performance.benchmark(full=False, only="experts", pairs=1, out=tmp_path / "performance")
    assert not list(tmp_path.iterdir())


def test_a_goal_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no goal is called"):
        performance.measured_result("quick", "nothing", 1, FakeSides())
