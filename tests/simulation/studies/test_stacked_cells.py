"""Cells side by side end as they end one by one; which way they went, their cards say."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from permmoe.config import parse_config
from permmoe.data.visits import VisitTable
from permmoe.errors import PermmoeError
from permmoe_simulation.studies import simulate, stacked_cells
from permmoe_simulation.studies.cell import run_cell
from permmoe_simulation.studies.cell_files import is_finished, read_predictions
from permmoe_simulation.studies.progress import Progress
from permmoe_simulation.studies.simulate import RunOptions, run_study
from permmoe_simulation.studies.sources import prepare_data
from permmoe_simulation.studies.stacked_cells import in_stacks, run_cells_together
from permmoe_simulation.studies.study import Cell, StudyConfig, cells
from tests.support.patience import wait_until
from tests.support.tiny_study import METHODS, QUIET, ROOT, command, environment, run, settings, write_settings

pytestmark = pytest.mark.xdist_group("study")
MODEL = settings()["model"] | {"dropout": 0.0, "router_noise": False}
MODEL["encoder"] = MODEL["encoder"] | {"dropout": 0.0}
"""Without random numbers in the forward pass, cells side by side and single ones are comparable."""


def study(**changes: Any) -> StudyConfig:
    methods = {name: METHODS[name] for name in ("centralised", "local", "clinical-null")}
    return parse_config(
        settings(model=MODEL, methods=methods, comparisons=[], claims=[]) | changes, StudyConfig, "study"
    )


def grid(**changes: Any) -> list[tuple[str, Cell]]:
    chosen = study(**changes)
    return list(cells(chosen, dict.fromkeys(chosen.regimes, "d"), "inprocess"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[VisitTable, Path]:
    """The synthetic visits, and the folder that their volumes are cached in."""
    chosen = study()
    data = prepare_data(chosen.data, chosen.model, tmp_path_factory.mktemp("cells"), 1, QUIET)
    return data.visits, data.cache


def together(chosen: list[Cell], made: tuple[VisitTable, Path], folder: Path) -> list[Path]:
    folders = [folder / f"together-{number}" for number in range(len(chosen))]
    assert run_cells_together(chosen, *made, folders, "cpu") == folders
    return folders


def assert_same_results(one: Path, other: Path) -> None:
    mine, alone = read_predictions(one), read_predictions(other)
    pd.testing.assert_frame_equal(mine, alone, rtol=0, atol=5e-3)
    learnt, alone_learnt = (pd.read_csv(folder / "learning.csv") for folder in (one, other))
    np.testing.assert_allclose(learnt.rmse, alone_learnt.rmse, atol=5e-3)
    assert learnt.drop(columns="rmse").equals(alone_learnt.drop(columns="rmse"))


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For studies of the same cohort."""
    return tmp_path_factory.mktemp("studies")


@pytest.mark.parametrize("method", ["centralised", "local"])
def test_cells_side_by_side_end_as_each_by_itself(method: str, made: tuple[VisitTable, Path], tmp_path: Path) -> None:
    chosen = [cell for name, cell in grid() if name == method]
    assert [cell.seed for cell in chosen] == [0, 1]
    for cell, folder in zip(chosen, together(chosen, made, tmp_path), strict=True):
        assert is_finished(folder)
        assert_same_results(folder, run_cell(cell, *made, tmp_path / f"alone-{cell.seed}"))
        card = json.loads((folder / "card.json").read_text())
        assert card["cells_side_by_side"] == 2
        assert card["digest"] == cell.digest()
        assert card["device"] == "cpu"


def test_members_of_ensembles_train_beside_those_of_other_seeds(made: tuple[VisitTable, Path], tmp_path: Path) -> None:
    methods = {"centralised": METHODS["centralised"] | {"members": 2}}
    chosen = [cell for _, cell in grid(methods=methods)]
    for cell, folder in zip(chosen, together(chosen, made, tmp_path), strict=True):
        assert_same_results(folder, run_cell(cell, *made, tmp_path / f"alone-{cell.seed}"))


def test_cells_of_one_method_and_regime_go_together_and_what_has_no_model_to_stack_goes_alone() -> None:
    found = [[(name, cell.seed) for name, cell in stack] for stack in in_stacks(grid())]
    assert sorted(found) == [
        [("centralised", 0), ("centralised", 1)],
        [("clinical-null", 0)],
        [("clinical-null", 1)],
        [("local", 0), ("local", 1)],
    ]


def test_models_that_cannot_be_stacked_are_run_one_by_one(made: tuple[VisitTable, Path], tmp_path: Path) -> None:
    chosen = [cell for name, cell in grid(train=settings()["train"] | {"micro_batch": 4}) if name == "centralised"]
    for folder in together(chosen, made, tmp_path):
        assert "cells_side_by_side" not in json.loads((folder / "card.json").read_text())


def test_of_cells_that_are_run_one_by_one_after_all_only_the_one_that_failed_is_said_to_have_failed(
    study_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(own: Cell, *given: Any) -> Path:
        if own.seed == 0:
            raise PermmoeError("of this seed alone")
        return run_cell(own, *given)

    monkeypatch.setattr("permmoe_simulation.studies.cell.run_cell", broken)
    # In this process, for others would not know of the broken seed.
    monkeypatch.setattr(simulate, "worker_pool", lambda workers, **options: ThreadPoolExecutor(workers))
    chosen = study(train=settings()["train"] | {"micro_batch": 4}, methods={"centralised": METHODS["centralised"]})
    notes: list[str] = []
    progress = Progress(lambda name, steps: None, lambda what: None, notes.append)
    options = RunOptions(study_folder / "shared", side_by_side=True)
    outcome = run_study(chosen, study_folder / "one-failed", options, progress)
    assert outcome.failed == ("centralised, site, seed 0: PermmoeError",)
    assert notes == ["failed: centralised, site, seed 0: PermmoeError: of this seed alone"]


def test_cells_that_do_not_fit_into_memory_together_are_run_one_by_one(
    made: tuple[VisitTable, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(fits: object, train: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stacked_cells, "fit_stacked", full)
    chosen = [cell for name, cell in grid() if name == "centralised"]
    for folder in together(chosen, made, tmp_path):
        assert is_finished(folder)
        assert "cells_side_by_side" not in json.loads((folder / "card.json").read_text())
    assert "does not hold 2 cells side by side" in caplog.text


def test_an_error_that_is_not_of_memory_is_raised_and_leaves_no_cell_behind(
    made: tuple[VisitTable, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fits: object, train: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(stacked_cells, "fit_stacked", broken)
    with pytest.raises(RuntimeError, match="something else"):
        together([cell for name, cell in grid() if name == "centralised"], made, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_stack_of_many_models_is_trained_in_parts(
    made: tuple[VisitTable, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [cell for name, cell in grid() if name == "centralised"]
    sizes: list[int] = []
    plain = stacked_cells.fit_stacked
    monkeypatch.setattr(stacked_cells, "MOST_AT_ONCE", 1)
    monkeypatch.setattr(stacked_cells, "fit_stacked", lambda fits, train: sizes.append(len(fits)) or plain(fits, train))
    together(chosen, made, tmp_path)
    assert sizes == [1, 1]


def test_the_command_trains_a_study_side_by_side(study_folder: Path) -> None:
    file, out = write_settings(study_folder / "tiny.yaml"), study_folder / "out"
    ended = run(file, out, "--side-by-side", "--shared", str(study_folder / "shared"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 cell(s) failed" in ended.stdout
    cards = [json.loads(file.read_text()) for file in out.glob("cells/*/card.json")]
    beside = {card["cell"]["method"]["kind"]: card.get("cells_side_by_side") for card in cards}
    assert beside["centralised"] == beside["local"] == 2
    assert beside["federated"] is None
    assert (out / "report.html").is_file()


def test_a_study_that_is_killed_side_by_side_keeps_finished_stacks_and_ends_as_an_undisturbed_one(
    study_folder: Path,
) -> None:
    # The local models take long enough to be killed among them.
    local = METHODS["local"] | {"train": {"epochs": 60}}
    methods = {"centralised": METHODS["centralised"], "local": local}
    file = write_settings(study_folder / "killed.yaml", methods=methods, comparisons=[], claims=[])
    given = "--side-by-side", "--shared", str(study_folder / "shared")
    out, undisturbed = study_folder / "killed", study_folder / "undisturbed"
    assert run(file, undisturbed, *given).returncode == 0
    process = subprocess.Popen(command(file, out, *given), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
    wait_until("both cells of a stack are finished", lambda: len(finished_cells(out)) == 2)
    process.kill()
    process.wait()
    before = finished_cells(out)
    assert {kind for kind, _ in before.values()} == {"centralised"}
    assert run(file, out, *given).returncode == 0
    assert before.items() <= finished_cells(out).items()
    assert len(finished_cells(out)) == 4
    for name in finished_cells(out):
        mine, expected = (read_predictions(folder / "cells" / name) for folder in (out, undisturbed))
        pd.testing.assert_frame_equal(mine, expected, check_exact=True)


def finished_cells(out: Path) -> dict[str, tuple[str, int]]:
    """By folder: the kind of the method, and when the card was written, ns."""
    cards = {file.parent.name: file for file in out.glob("cells/*/card.json")}
    return {
        name: (json.loads(file.read_text())["cell"]["method"]["kind"], file.stat().st_mtime_ns)
        for name, file in cards.items()
        if not name.endswith(".unfinished")
    }
