"""One cell: what it is evaluated on, how the ways of averaging differ, and that it is run once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from permmoe.calibration.calibrate import predicted
from permmoe.config import parse_config
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.data.visits import VisitTable
from permmoe.encoder_kinds import ENCODERS
from permmoe.errors import DeviceUnusable, PermmoeError
from permmoe.evaluation.harmonised import harmonised
from permmoe.federated.plan import RoundPlan
from permmoe.layers.encoders import fixed_stem
from permmoe.model import PerMMoE
from permmoe.training.epochs import train_epochs
from permmoe_client.site import read_site
from permmoe_simulation.engines.engine import Engine
from permmoe_simulation.engines.federated_training import provisioned_sites, train_federation, write_site
from permmoe_simulation.studies.cell import run_cell, split_and_partition
from permmoe_simulation.studies.cell_files import ACTIVATION, CALIBRATION, is_finished, read_predictions
from permmoe_simulation.studies.sources import prepare_data
from permmoe_simulation.studies.study import Cell, StudyConfig, cells
from tests.support.pretended_gpu import pretend_gpus
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
    """In the same direction as among its own sites, by their share of all training visits. Round 1 trains nothing."""
    start, among_own, zero = (
        trained(
            cell_of("federated", federation={"rounds": rounds, "evaluate_every": 0, "aggregation": rule}),
            made,
            tmp_path / f"{rule}-{rounds}",
        )
        for rule, rounds in (("zero_fill", 1), ("site_weight", 2), ("zero_fill", 2))
    )
    [name] = [n for n in start if "tau" in n and n.endswith("project.weight")]
    moved, less = (among_own[name] - start[name]).ravel(), (zero[name] - start[name]).ravel()
    share = float(less @ moved / (moved @ moved))
    assert 0.1 < share < 0.9
    np.testing.assert_allclose(less, share * moved, atol=1e-3 * np.abs(moved).max())
    sites, _ = split_and_partition(made[0], cell_of("federated"))
    visits = share * sum(visit.split == "train" for table in sites.values() for visit in table)
    assert visits == pytest.approx(round(visits), abs=1e-2)


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


def one_round(method: str, **federation: object) -> Cell:
    own = {
        "kind": method,
        "label": method,
        "train": {"epochs": 1},
        "federation": {"rounds": 1, "centring_round": False, **federation},
    }
    study = parse_config(settings(methods={method: own}, comparisons=[], claims=[]), StudyConfig, "study")
    return cells(study, dict.fromkeys(study.regimes, "d"), "inprocess")[0][1]


@pytest.mark.parametrize("method", ["centralised", "local", "unimodal", "federated"])
def test_every_model_is_trained_on_the_device_that_was_asked_for(
    method: str, made: tuple[VisitTable, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus, cell = pretend_gpus(monkeypatch, count=8), one_round(method)
    done = run_cell(cell, *made, tmp_path / "cell", device="cuda:7")
    assert set(gpus.sent) == {"cuda:7"}
    card = json.loads((done / "card.json").read_text())
    assert card["device"] == "cuda:7" and card["digest"] == cell.digest() and "device_notes" not in card


@pytest.mark.parametrize(
    ("engine", "federation", "device"),
    [
        ("inprocess", {}, "cuda:7"),
        ("inprocess", {"secure": True}, "cuda:7"),
        ("inprocess", {"privacy": {"target_epsilon": 8.0}, "evaluate_every": 0}, "cuda:7"),
        ("ray", {}, "cuda"),
    ],
)
def test_every_hospital_of_a_cell_is_told_the_device(
    engine: Engine, federation: dict[str, Any], device: str, made: tuple[VisitTable, Path], tmp_path: Path
) -> None:
    """Ray lets a client see the GPU that it was given and no other."""
    cell = one_round("federated", **federation).model_copy(update={"engine": engine})
    plan = RoundPlan(model=cell.model, train=cell.train, federation=cell.federation)
    sites, _ = split_and_partition(made[0], cell)
    if federation:
        files, _ = provisioned_sites(cell, sites, made[1], tmp_path, plan, "cuda:7")
    else:
        files = {name: write_site(name, cell, sites, made[1], tmp_path / name, plan, "cuda:7") for name in sites}
    assert {read_site(path).device for path in files.values()} == {device} and files.keys() == sites.keys()


def test_a_cell_whose_encoder_gains_nothing_stays_on_the_cpu_at_auto(
    made: tuple[VisitTable, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = pretend_gpus(monkeypatch)
    done = run_cell(one_round("federated"), *made, tmp_path / "cell", device="auto")
    assert set(gpus.sent) == {"cpu"} and json.loads((done / "card.json").read_text())["device"] == "cpu"


def test_a_cell_whose_gpu_disappears_begins_anew_on_the_cpu_or_fails_as_asked_for(
    made: tuple[VisitTable, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus, cell = pretend_gpus(monkeypatch), one_round("federated")
    calls: list[str] = []

    def lost(*arguments: Any, **options: Any) -> Any:
        found = train_epochs(*arguments, **options)
        calls.append(gpus.sent[-1])
        if gpus.sent[-1] != "cpu":
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        return found

    monkeypatch.setattr("permmoe_client.participation.local_round.train_epochs", lost)
    monkeypatch.setitem(ENCODERS, "pooled", replace(ENCODERS["pooled"], gains_from_gpu=True))
    with pytest.raises(DeviceUnusable):
        run_cell(cell, *made, tmp_path / "failed", device="cuda")
    assert not is_finished(tmp_path / "failed") and set(calls) == {"cuda"}
    done = run_cell(cell, *made, tmp_path / "cell", device="auto:0")
    card = json.loads((done / "card.json").read_text())
    [note] = card["device_notes"]
    assert card["device"] == "cpu" and "the CPU takes its place" in note
    monkeypatch.undo()
    plain = run_cell(cell, *made, tmp_path / "plain")
    pd.testing.assert_frame_equal(read_predictions(done), read_predictions(plain), check_exact=True)


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


def test_a_ridge_of_private_moments_is_accounted_at_every_site_and_says_nothing_of_experts(
    made: tuple[VisitTable, Path], tmp_path: Path
) -> None:
    """Nobody asks its experts, whom nothing trained."""
    privacy = {"noise_multiplier": 1.0, "moments": {"is_shared": True}}
    federation = {"rounds": 1, "evaluate_every": 0, "secure": True, "min_sites": 4, "privacy": privacy}
    ridge = {"cells": [1, 2, 1], "share": 1.0, "directions": "declared"}
    folder = run_cell(cell_of("federated", model={"ridge": ridge}, federation=federation), *made, tmp_path / "cell")
    accounts = pd.read_csv(folder / "privacy.csv")
    assert len(accounts) > 4 and accounts["epsilon"].between(4, 5).all() and accounts["secure"].all()
    assert not (folder / ACTIVATION).exists() and np.isfinite(read_predictions(folder)["t1"]).any()


def test_a_federation_of_harmonised_images_is_judged_at_each_site_on_its_own_harmonised_images(tmp_path: Path) -> None:
    cell = cell_of(
        "federated",
        model={"harmonisation": {"covariates": [], "least_visits": 10}},
        federation={"rounds": 3, "harmonising_round": True},
    )
    two_sites = {"synthetic": {**settings()["data"]["synthetic"], "sites": 2}}
    source = parse_config(settings(data=two_sites), StudyConfig, "study").data
    data = prepare_data(source, STUDY.model, tmp_path, 1, QUIET)
    visits, cache = data.visits, data.cache
    found = read_predictions(run_cell(cell, visits, cache, tmp_path / "cell")).set_index("subject")["t1"].dropna()
    sites, _ = split_and_partition(visits, cell)
    model = PerMMoE(cell.model)
    model.load_state_dict(dict(train_federation(cell, sites, cache, tmp_path / "again").weights))
    assert model.harmonisation
    expected, moved = {}, 0.0
    for table in sites.values():
        loaded, _ = VisitData.load(table, cell.model, VolumeCache(cache), stem=fixed_stem(cell.model))
        own = harmonised(model.harmonisation, loaded)
        assert "t1" not in own.as_they_were
        tests, as_scanned = own.data.part("test"), loaded.part("test")
        predictions, raw = predicted(model, tests)[0][:, 0], predicted(model, as_scanned)[0][:, 0]
        expected |= dict(zip([visit.subject_id for visit in tests.visits], predictions, strict=True))
        moved = max(moved, float(np.nanmax(np.abs(predictions - raw))))
    assert moved > 1e-3 and len(found)
    np.testing.assert_allclose(found.to_numpy(), [expected[subject] for subject in found.index], atol=1e-5)
