"""Cells side by side end as they end one by one; which way they went, their cards say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from permmoe.config import parse_config
from permmoe.data.visits import VisitTable
from permmoe_simulation.studies import stacked_cells
from permmoe_simulation.studies.cell import run_cell
from permmoe_simulation.studies.cell_files import is_finished, read_predictions
from permmoe_simulation.studies.sources import prepare_data
from permmoe_simulation.studies.stacked_cells import in_stacks, run_cells_together
from permmoe_simulation.studies.study import Cell, StudyConfig, cells
from tests.support.tiny_study import METHODS, QUIET, run, settings, write_settings

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
    return run_cells_together(chosen, *made, folders, "cpu")


def assert_same_results(one: Path, other: Path) -> None:
    mine, alone = read_predictions(one), read_predictions(other)
    pd.testing.assert_frame_equal(mine, alone, rtol=0, atol=5e-3)
    learnt, alone_learnt = (pd.read_csv(folder / "learning.csv") for folder in (one, other))
    np.testing.assert_allclose(learnt.rmse, alone_learnt.rmse, atol=5e-3)
    assert learnt.drop(columns="rmse").equals(alone_learnt.drop(columns="rmse"))


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


def test_the_command_trains_a_study_side_by_side(tmp_path: Path) -> None:
    file, out = write_settings(tmp_path / "tiny.yaml"), tmp_path / "out"
    ended = run(file, out, "--side-by-side")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 cell(s) failed" in ended.stdout
    cards = [json.loads(file.read_text()) for file in out.glob("cells/*/card.json")]
    beside = {card["cell"]["method"]["kind"]: card.get("cells_side_by_side") for card in cards}
    assert beside["centralised"] == beside["local"] == 2
    assert beside["federated"] is None
    assert (out / "report.html").is_file()
