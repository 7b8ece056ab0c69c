"""Trackers are told settings and figures, change nothing, and are given up when they fail."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from permmoe.config import RunConfig, SplitConfig, TrainConfig
from permmoe.errors import ConfigurationError
from permmoe.evaluation.combinations import ErrorSums
from permmoe.evaluation.tracked_figures import combination_figures, epoch_figures
from permmoe.runs import train_run
from permmoe.runtime.tracking.tracker import NOT_TRACKED, Tracking, run_name, tracking_to
from tests.support.tiny_federation import MODEL, write_site

mlflow = pytest.importorskip("mlflow")
pytest.importorskip("tensorboard")

CONFIG = RunConfig(
    model=MODEL,
    train=TrainConfig(epochs=3, warmup_epochs=1, batch_size=8, learning_rate=3e-3, seed=17),
    split=SplitConfig(validation=0.2, test=0.3, seed=5),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_site(folder, "north", visits=41)
    return folder


def trained(site: Path, out: Path, tracking: Tracking = NOT_TRACKED) -> bytes:
    train_run(site / "north.csv", out, CONFIG, cache=site / "cache", tracking=tracking)
    return (out / "model" / "tensors.safetensors").read_bytes() + (out / "results.csv").read_bytes()


@pytest.fixture(scope="module")
def untracked(site: Path) -> bytes:
    return trained(site, site / "untracked")


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Every figure of an event folder by name and step, as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: {event.step: float(make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)}
        for tag in events.Tags()["tensors"]
        if tag != "settings/text_summary" and tag != "settings"
    }


def no_warning(sentence: str) -> None:
    raise AssertionError(sentence)


def test_tensorboard_shows_every_epoch_and_the_training_changes_by_no_bit(
    site: Path, untracked: bytes, tmp_path: Path
) -> None:
    told = trained(site, tmp_path / "run", tracking_to(f"tensorboard:{tmp_path / 'board'}", no_warning))
    assert told == untracked
    (run,) = (tmp_path / "board" / "permmoe train").iterdir()
    found = scalars(run)
    assert list(found["loss"]) == list(found["validation_rmse"]) == [0, 1, 2]
    assert found["test_visits/clinical"].keys() == found["test_rmse/clinical"].keys()


def test_mlflow_in_a_folder_has_settings_and_figures_and_one_run_for_one_training(
    site: Path, untracked: bytes, tmp_path: Path
) -> None:
    target = f"mlflow:{tmp_path / 'flow'}"
    assert trained(site, tmp_path / "run", tracking_to(target, no_warning)) == untracked
    # The same training again: its name holds the digest of its settings, and it has ended.
    assert trained(site, tmp_path / "again", tracking_to(target, no_warning)) == untracked
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'flow' / 'mlflow.db'}")
    (experiment,) = (e for e in client.search_experiments() if e.name == "permmoe train")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["train.epochs"] == "3"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == [0, 1, 2]
    assert run.data.tags.keys() == {"mlflow.runName"}


@pytest.mark.parametrize("kind", ["mlflow", "tensorboard"])
def test_no_patient_no_path_and_no_machine_is_in_what_a_tracker_keeps(site: Path, tmp_path: Path, kind: str) -> None:
    trained(site, tmp_path / "secret-run", tracking_to(f"{kind}:{tmp_path / 'kept'}", no_warning))
    files = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    kept = b"".join(path.read_bytes() + str(path.relative_to(tmp_path)).encode() for path in files)
    subjects = [line.split(",")[0] for line in (site / "north.csv").read_text().splitlines()[1:]]
    assert len(subjects) == 41 and b"data_digest" in kept
    for private in [*subjects, str(site), "secret-run", socket.gethostname(), str(tmp_path), str(Path.cwd())]:
        assert private.encode() not in kept, private


def test_a_server_that_is_down_costs_one_warning_that_names_no_address(
    site: Path, untracked: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    warnings: list[str] = []
    tracking = tracking_to("mlflow:http://name:password@127.0.0.1:9", warnings.append)
    assert trained(site, tmp_path / "run", tracking) == untracked
    (warning,) = warnings
    assert "nothing more is tracked" in warning and "password" not in warning and not tracking.is_on


def test_a_folder_that_cannot_be_written_costs_one_warning(site: Path, untracked: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    warnings: list[str] = []
    tracking = tracking_to(f"tensorboard:{tmp_path / 'file' / 'board'}", warnings.append)
    assert trained(site, tmp_path / "run", tracking) == untracked
    assert len(warnings) == 1


class FailsLater:
    """A tracker whose disk is full after some figures."""

    def __init__(self, figures: int) -> None:
        self.left = figures
        self.seen: list[int] = []

    def run(self, group: str, name: str, settings: Mapping[str, str]) -> FailsLater:
        return self

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.seen.append(step)
        if len(self.seen) > self.left:
            raise OSError(28, "No space left on device")

    def end(self) -> None:
        raise AssertionError("nothing is asked of a tracker that has failed")


def test_a_tracker_that_fails_midway_is_asked_for_nothing_more(site: Path, untracked: bytes, tmp_path: Path) -> None:
    tracker, warnings = FailsLater(1), list[str]()
    assert trained(site, tmp_path / "run", Tracking("test", lambda: tracker, warnings.append)) == untracked
    assert tracker.seen == [0, 1] and len(warnings) == 1 and "OSError" in warnings[0]


@pytest.mark.parametrize("target", ["mlflow", "mlflow:", "tensorflow:x", ":x"])
def test_a_target_that_is_none_is_refused(target: str) -> None:
    with pytest.raises(ConfigurationError, match="--track"):
        tracking_to(target, no_warning)


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("permmoe.runtime.tracking.tracker.find_spec", lambda package: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'permmoe\[mlflow\]'"):
        tracking_to("mlflow:runs", no_warning)


def test_an_interrupted_run_goes_on_in_mlflow_as_one(tmp_path: Path) -> None:
    target = f"mlflow:{tmp_path}"
    for steps in ([0, 1], [2]):
        run = tracking_to(target, no_warning).run("group/with a slash", "name", {"a": {"b": [1, 2]}, "c": "x" * 7000})
        for step in steps:
            run.log({"loss": 1.0 + step, "nothing": float("nan")}, step)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (found,) = client.search_runs([e.experiment_id for e in client.search_experiments() if e.name.startswith("group")])
    assert [m.step for m in client.get_metric_history(found.info.run_id, "loss")] == [0, 1, 2]
    assert found.data.params["a.b"] == "[1, 2]" and "nothing" not in found.data.metrics


def test_names_follow_the_settings_and_nothing_else() -> None:
    first: dict[str, Any] = {"a": 1, "b": {"c": 2}}
    assert run_name("x", first) == run_name("x", {"b": {"c": 2}, "a": 1}) != run_name("x", {**first, "a": 2})


def test_figures_over_few_visits_are_left_out_and_with_one_of_them_the_mean() -> None:
    few = combination_figures([("t1", 7, 1.0), ("t1+tau", 4, 3.0), ("tau", 0, np.nan)], "test")
    assert few == {"test_rmse/t1": 1.0, "test_visits/t1": 7.0}
    enough = combination_figures([("t1", 7, 1.0), ("t1+tau", 5, 3.0), ("tau", 0, np.nan)], "test")
    assert enough["test_rmse/mean"] == 2.0 and enough["test_rmse/t1-tau"] == 3.0


def test_losses_of_few_visits_are_left_out() -> None:
    sums = {"t1": ErrorSums(4, 4.0, 4.0, 0.0, 0.0)}
    assert np.isnan(list(epoch_figures(1.0, 4, 1.0, sums).values())).all()
    assert epoch_figures(1.0, 5, 1.0, {"t1": ErrorSums(5, 5.0, 5.0, 0.0, 0.0)}) == {"loss": 1.0, "validation_rmse": 1.0}


def test_importing_the_tracker_imports_neither_library() -> None:
    import subprocess
    import sys

    code = "import sys, permmoe.runtime.tracking.tracker; sys.exit(any(n in sys.modules for n in ('mlflow', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
