"""One cell: what it is evaluated on, how the ways of averaging differ, and that it is run once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from permmoe.config import parse_config
from permmoe.data.visits import VisitTable
from permmoe.errors import PermmoeError
from permmoe.model import PerMMoE
from permmoe_simulation.engines.federated_training import train_federation
from permmoe_simulation.studies.cell import run_cell, split_and_partition
from permmoe_simulation.studies.cell_files import CALIBRATION, read_predictions
from permmoe_simulation.studies.sources import prepare_data
from permmoe_simulation.studies.study import Cell, StudyConfig, cells
from tests.support.tiny_study import METHODS, QUIET, settings

pytestmark = pytest.mark.xdist_group("study")
STUDY = parse_config(settings(), StudyConfig, "study")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[VisitTable, Path]:
    """The synthetic visits, and the folder that their volumes are cached in."""
    out = tmp_path_factory.mktemp("cells")
    data = prepare_data(STUDY.data, STUDY.model, out, 1, QUIET)
    return data.visits, data.cache


def cell_of(method: str, **changes: object) -> Cell:
    study = parse_config(
        settings(methods={method: METHODS[method] | changes}, comparisons=[], claims=[]), StudyConfig, "study"
    )
    return cells(study, dict.fromkeys(study.regimes, "d"), "inprocess")[0][1]


def trained(cell: Cell, made: tuple[VisitTable, Path], folder: Path) -> dict[str, np.ndarray]:
    sites, _ = split_and_partition(made[0], cell)
    return {name: tensor.numpy() for name, tensor in train_federation(cell, sites, made[1], folder).weights.items()}


def test_zero_fill_moves_the_encoder_of_a_modality_that_a_site_lacks_less(
    made: tuple[VisitTable, Path], tmp_path: Path
) -> None:
    start = trained(cell_of("federated", federation={"rounds": 1, "evaluate_every": 0}), made, tmp_path / "start")
    own = trained(cell_of("federated", federation={"rounds": 2, "evaluate_every": 0}), made, tmp_path / "own")
    zero = trained(
        cell_of("federated", federation={"rounds": 2, "evaluate_every": 0, "aggregation": "zero_fill"}),
        made,
        tmp_path / "zero",
    )
    [name] = [n for n in own if "tau" in n and n.endswith("project.weight")]
    moved, less = np.linalg.norm(own[name] - start[name]), np.linalg.norm(zero[name] - start[name])
    assert 0 < less < moved


@pytest.mark.parametrize("method", ["local", "clinical-null"])
def test_a_visit_whose_only_image_is_broken_is_left_out_and_no_other_takes_its_place(
    method: str, made: tuple[VisitTable, Path], tmp_path: Path
) -> None:
    visits, cache = made
    cell = cell_of(method)
    whole = read_predictions(run_cell(cell, visits, cache, tmp_path / "whole")).set_index("subject")
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    victim = whole.index[0]
    broken = VisitTable(
        tuple(replace(v, volumes={"t1": tmp_path / "broken.nii.gz"}) if v.subject_id == victim else v for v in visits)
    )
    left = read_predictions(run_cell(cell, broken, cache, tmp_path / "left")).set_index("subject")
    assert set(whole.index) - set(left.index) == {victim}
    pd.testing.assert_frame_equal(left, whole.drop(victim), rtol=1e-4)


def test_a_method_of_fewer_modalities_is_dealt_the_same_sites() -> None:
    table = [{"name": "a", "modalities": ["t1", "tau"]}, {"name": "b", "modalities": ["flair"]}]
    methods = {"t1": {"kind": "local", "label": "T1 alone", "model": {"modalities": [{"name": "t1"}]}}}
    study = parse_config(
        settings(methods={**METHODS, **methods}, regimes={"table": {"kind": "table", "table": table}}),
        StudyConfig,
        "study",
    )
    assert {cell.modalities for _, cell in cells(study, dict.fromkeys(study.regimes, "d"), "inprocess")} == {
        ("t1", "flair", "amyloid", "tau")
    }


def test_a_federation_whose_every_reply_is_refused_fails_instead_of_giving_untrained_weights(
    made: tuple[VisitTable, Path], tmp_path: Path
) -> None:
    with pytest.raises(PermmoeError, match="round 1 had too few usable replies; rejected for: "):
        trained(cell_of("federated", federation={"max_update_norm": 1e-12}), made, tmp_path)


@pytest.mark.parametrize("method", ["centralised", "local", "unimodal"])
def test_models_at_one_place_are_trained_on_the_device_that_was_asked_for(
    method: str, made: tuple[VisitTable, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def to(model: PerMMoE, device: str) -> PerMMoE:
        asked.append(device)
        return model

    monkeypatch.setattr(PerMMoE, "to", to)
    visits, cache = made
    one_epoch = {"kind": method, "label": method, "train": {"epochs": 1}}
    study = parse_config(settings(methods={method: one_epoch}, comparisons=[], claims=[]), StudyConfig, "study")
    cell = cells(study, dict.fromkeys(study.regimes, "d"), "inprocess")[0][1]
    done = run_cell(cell, visits, cache, tmp_path / "cell", device="cuda:7")
    assert set(asked) == {"cuda:7"}
    assert json.loads((done / "card.json").read_text())["device"] == "cuda:7"


@pytest.mark.parametrize("method", ["centralised", "federated"])
def test_sites_that_are_unseen_are_judged_and_change_nothing_that_is_trained(
    method: str, made: tuple[VisitTable, Path], tmp_path: Path
) -> None:
    """Their patients' outcomes are made up anew: predictions are the same bits."""
    visits, cache = made
    own = METHODS[method] | {"train": {"epochs": 1}, "federation": {"rounds": 1}}
    changed = settings(methods={method: own}, comparisons=[], claims=[], regimes={"new": {"unseen": 3}})
    study = parse_config(changed, StudyConfig, "study")
    cell = cells(study, {"new": "d"}, "inprocess")[0][1]
    done = run_cell(cell, visits, cache, tmp_path / "done")
    unseen = json.loads((done / "card.json").read_text())["unseen_sites"]
    judged = read_predictions(done)
    assert len(unseen) == 3 and set(unseen) < set(judged["site"])
    assert not set(unseen) & set(read_predictions(done, CALIBRATION)["site"])
    if method == "federated":
        assert not set(unseen) & set(pd.read_csv(done / "rounds.csv", dtype={"site": str})["site"])
    other = VisitTable(tuple(replace(v, delta_cdrsb=0.5) if v.site in unseen else v for v in visits))
    again = read_predictions(run_cell(cell, other, cache, tmp_path / "again"))
    pd.testing.assert_frame_equal(again.drop(columns="target"), judged.drop(columns="target"), check_exact=True)


def test_a_finished_cell_is_not_run_again(made: tuple[VisitTable, Path], tmp_path: Path) -> None:
    visits, cache = made
    cell = cell_of("clinical-null")
    before = (run_cell(cell, visits, cache, tmp_path / "cell") / "card.json").stat().st_mtime_ns
    run_cell(cell, VisitTable(()), cache, tmp_path / "cell")
    assert (tmp_path / "cell" / "card.json").stat().st_mtime_ns == before
