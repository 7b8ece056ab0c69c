"""What a study's runner does with a process that ends, waits or stops; time and the superlink are stand-ins."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from permmoe_server.coordination.admission import KnownSite
from permmoe_server.coordination.study_runner import StudyFailed, StudyHeldUp, StudyRunner
from permmoe_server.coordination.superlink import RunState
from permmoe_server.protocol.readiness import NoQuorum, StudyLost
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.studies.standing import StandingFile
from permmoe_server.studies.study_folder import Study
from tests.support.tiny_federation import tiny_plan

ONLINE = (KnownSite("north", 1, True),)
ENDED, COMPLETED = RunState(True, False, "finished failed"), RunState(True, True, "finished completed")
RUNNING = RunState(False, False, "running")


@dataclass
class Runs:
    """A superlink of which a test says how its runs stand."""

    state: RunState = RUNNING
    starts: list[Mapping[str, str]] = field(default_factory=list)

    def start_run(self, run_config: Mapping[str, str]) -> int:
        self.starts.append(run_config)
        return len(self.starts)

    def run_state(self, run_id: int) -> RunState:
        return self.state


@dataclass
class Bench:
    """A runner with its surroundings."""

    folder: Path
    stay: bool = True
    runs: Runs = field(default_factory=Runs)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.study = Study(tiny_plan(), self.folder / "study")
        self.study.folder.mkdir(parents=True)
        folder = FederationFolder(self.folder)
        self.runner = StudyRunner(folder, self.study, self.runs, 600.0, lambda: self.seconds, stay=self.stay)

    def end(self, error: Exception | None = None) -> None:
        """The process of the study ends, with this error."""
        with suppress(Exception), StandingFile(self.study.standing_file, self.study.stop_file).kept():
            if error:
                raise error
        self.runs.state = ENDED if error else COMPLETED


def test_with_stay_a_study_that_ends_again_and_again_is_never_given_up_and_says_why(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for _ in range(30):
        progress = bench.runner.advance(ONLINE, 0)
        bench.end(NoQuorum("too few replies"))
        progress = bench.runner.advance(ONLINE, 0)
        bench.runs.state = RUNNING
        bench.seconds += 301
    assert len(bench.runs.starts) == 30
    assert progress.phase == "stalled" and "too few replies" in progress.detail


def test_without_stay_it_ends_once_quorum_seconds_have_passed_without_a_round(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stay=False)
    with pytest.raises(StudyHeldUp, match="too few replies") as held_up:
        for _ in range(10):
            bench.runner.advance(ONLINE, 0)
            bench.end(NoQuorum("too few replies"))
            bench.runner.advance(ONLINE, 0)
            bench.runs.state = RUNNING
            bench.seconds += 301
    assert held_up.value.exit_status == 75 and len(bench.runs.starts) > 2


def test_a_study_that_nobody_can_bring_to_its_end_has_failed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.runner.advance(ONLINE, 0)
    bench.end(StudyLost("start it anew"))
    with pytest.raises(StudyFailed, match="start it anew") as failed:
        bench.runner.advance(ONLINE, 0)
    assert failed.value.exit_status == 2


def test_a_full_disk_is_named_and_waited_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for _ in range(2):
        bench.runner.advance(ONLINE, 1)
        bench.end(OSError(28, "No space left on device"))
        progress = bench.runner.advance(ONLINE, 1)
        bench.runs.state = RUNNING
    assert progress.phase == "stalled" and "No space left on device; make room" in progress.detail


def test_a_study_of_which_no_round_trained_finishes_without_a_model(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.runner.advance(ONLINE, 0)
    bench.end()
    progress = bench.runner.advance(ONLINE, 0)
    assert progress.phase == "finished" and "No model is registered" in progress.detail
    assert not (tmp_path / "models").exists()


def test_a_study_that_was_asked_to_stop_stays_stopped_until_it_is_to_go_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.runner.advance(ONLINE, 1)
    bench.study.stop_file.touch()
    standing = StandingFile(bench.study.standing_file, bench.study.stop_file)
    with standing.kept():
        assert standing.is_to_stop()
    bench.runs.state = COMPLETED
    assert bench.runner.advance(ONLINE, 1).phase == "stopped" and len(bench.runs.starts) == 1
    assert bench.runner.advance(ONLINE, 1).phase == "stopped"
    bench.study.stop_file.unlink()
    bench.runs.state = RUNNING
    assert bench.runner.advance(ONLINE, 1).phase == "running" and len(bench.runs.starts) == 2


def test_a_study_under_way_whose_sites_stay_away_is_stalled_and_one_that_has_not_begun_waits(tmp_path: Path) -> None:
    for rounds_done, phase in ((0, "waiting"), (1, "stalled")):
        bench = Bench(tmp_path / phase)
        bench.runner.advance((), rounds_done)
        bench.seconds = 601
        assert bench.runner.advance((), rounds_done).phase == phase
