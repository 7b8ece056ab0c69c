"""A site's raw images are prepared at the first start, and its log says how far that is, of nobody by name."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import pytest

from permmoe.config import ModelConfig
from permmoe.modality import Modality
from permmoe.preparation import subject as subject_room
from permmoe.preparation.progress import Step
from permmoe_client.participation.dry_run import dry_run
from permmoe_client.participation.preparation_log import PreparationLog
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.preflight.run import preflight
from permmoe_client.site import read_site
from tests.support.scans_to_prepare import SETTINGS, StandIn, write_scans
from tests.support.tiny_federation import MODEL, tiny_plan, write_site


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Prepares in no time, and to 4 mm."""
    made = StandIn()
    monkeypatch.setattr(subject_room, "_prepared", made)
    return made


def with_raw_t1(folder: Path, n: int) -> tuple[Path, ModelConfig]:
    """A site of which `n` patients have a raw T1, which it prepares itself, and a study that reads it."""
    path = write_site(folder, "north", prepare={"folder": "prepared"})
    lines = (folder / "north.csv").read_text().splitlines()
    rows = [f"{line}," for line in lines[1:]]
    for number in range(n):
        write_scans(folder / "raw", str(number), ["anat/{}_T1w"])
        rows[number] += f"raw/sub-{number}/ses-a/anat/sub-{number}_ses-a_T1w.nii.gz"
    (folder / "north.csv").write_text("\n".join([f"{lines[0]},t1", *rows]) + "\n")
    t1 = Modality(name="t1", prepared=SETTINGS.prepared_as("t1"))
    grid = {"shape": [9, 11, 7], "spacing_mm": 16.0}
    return path, ModelConfig.model_validate({**MODEL.model_dump(), "modalities": [*MODEL.modalities, t1], "grid": grid})


def lines_of(log: pytest.LogCaptureFixture) -> list[str]:
    return [text for record in log.records if (text := record.getMessage()).startswith("preparing raw images: ")]


def test_the_first_start_says_in_the_sites_log_how_far_the_preparation_is(
    tmp_path: Path, stand_in: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    path, model = with_raw_t1(tmp_path, 3)
    stand_in.refused = {"north-2"}
    with caplog.at_level(logging.INFO, logger="permmoe.client"):
        data = site_visits(read_site(path), model)
    assert data.observed[:, -1].sum() == 2
    assert lines_of(caplog) == [
        f"preparing raw images: {what}"
        for what in (
            "images opened: 0 of 3", "images opened: 3 of 3",
            "scans prepared: 0 of 3", "scans prepared: 3 of 3, 1 left out",
            "contact sheets drawn: 0 of 2", "contact sheets drawn: 2 of 2",
        )
    ]  # fmt: skip
    assert "north-2" not in caplog.text and str(tmp_path) not in caplog.text


def test_a_rehearsal_shows_its_progress_to_who_started_it(tmp_path: Path, stand_in: StandIn) -> None:
    path, model = with_raw_t1(tmp_path, 3)
    told: list[tuple[Step, int]] = []
    plan = tiny_plan(evaluate_every=0).model_copy(update={"model": model})
    dry_run(read_site(path), plan, tmp_path / "rehearsal", lambda step, done, total: told.append((step, done)))
    assert (Step.PREPARED, 3) in told


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 1e6

    def __call__(self) -> float:
        return self.seconds


def told(n: int, seconds_each: float, log: pytest.LogCaptureFixture) -> list[int]:
    """After which of `n` scans a line was written, where each takes so long."""
    clock = Clock()
    tell = PreparationLog(clock)
    with log.at_level(logging.INFO, logger="permmoe.client"):
        for done in range(n + 1):
            tell(Step.PREPARED, done, n)
            clock.seconds += seconds_each
    return [int(line.split(": ")[2].split()[0]) for line in lines_of(log)]


def test_a_line_is_written_at_each_tenth(caplog: pytest.LogCaptureFixture) -> None:
    assert told(70, 30.0, caplog) == list(range(0, 71, 7))


def test_where_a_tenth_takes_long_a_line_is_written_each_half_hour(caplog: pytest.LogCaptureFixture) -> None:
    lines = told(1000, 60.0, caplog)
    assert max(b - a for a, b in pairwise(lines)) == 30 and set(range(0, 1001, 100)) <= set(lines)


def test_what_is_finished_already_is_passed_by_in_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    assert told(700, 0.001, caplog) == [0, 700]


def test_a_step_that_has_nothing_to_do_has_no_line(caplog: pytest.LogCaptureFixture) -> None:
    assert told(0, 1.0, caplog) == []


def test_a_check_shows_the_progress_of_the_patient_that_it_prepares_for_a_try(
    tmp_path: Path, stand_in: StandIn
) -> None:
    path, model = with_raw_t1(tmp_path, 3)
    told: list[tuple[Step, int, int | None]] = []
    preflight(path, offline=True, model=model, preparation_progress=lambda *one: told.append(one))
    assert (Step.PREPARED, 1, 1) in told and not (tmp_path / "prepared").exists()
