"""Batches hold what was observed and not withheld, in memory or from disk, and nothing is fitted out of sight."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from permmoe.config import ModelConfig, TrainConfig, VolumeGrid
from permmoe.data import dataset
from permmoe.data import rows as rows_module
from permmoe.data.batch import Batch
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData, fit_scaling
from permmoe.data.rows import FileRows, MemoryRows
from permmoe.data.visits import Visit, VisitTable
from permmoe.data.volumes import grid_affine, read_volume
from permmoe.layers.encoders import CellStem, fixed_stem
from permmoe.modality import Modality
from permmoe.training.epochs import train_epochs
from permmoe.training.seeds import make_model

GRID = VolumeGrid(shape=(5, 7, 11), spacing_mm=16.0)
MODEL = ModelConfig(
    modalities=(
        Modality(name="t1"),
        Modality(name="fluid", kind="tabular", columns=("abeta", "ptau")),
        Modality(name="tau", normalisation="suvr"),
    ),
    grid=GRID,
)
OBSERVED = [(1, 0, 1), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0, 1, 1), (1, 0, 0)]


def make_table(folder: Path) -> VisitTable:
    """Seven visits, one for each combination of three modalities."""
    visits = []
    for i, (t1, fluid, tau) in enumerate(OBSERVED):
        volumes = {}
        for j, (name, has) in enumerate((("t1", t1), ("tau", tau))):
            if has:
                voxels = np.random.default_rng([i, j]).uniform(0.5, 2.0, GRID.shape).astype(np.float32)
                volumes[name] = folder / f"{i}_{name}.nii"
                nib.save(nib.Nifti1Image(voxels, grid_affine(GRID)), volumes[name])
        visits.append(
            Visit(
                subject_id=str(i),
                site="011",
                session="M000",
                baseline_cdrsb=1.0 + i,
                delta_cdrsb=None if i == 3 else 0.5 * i,
                horizon_months=24.0,
                split="train" if i < 5 else "test",
                volumes=volumes,
                tables={"fluid": (10.0 * i, -1.0 * i)} if fluid else {},
            )
        )
    return VisitTable(tuple(visits))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("visits")


@pytest.fixture(scope="module")
def table(folder: Path) -> VisitTable:
    return make_table(folder)


@pytest.fixture(scope="module")
def data(table: VisitTable, folder: Path) -> VisitData:
    loaded, quarantine = VisitData.load(table, MODEL, VolumeCache(folder / "cache"))
    assert len(quarantine) == 0
    return loaded


def volume(table: VisitTable, row: int, name: str) -> torch.Tensor:
    modality = next(m for m in MODEL.modalities if m.name == name)
    return read_volume(table.visits[row].volumes[name], modality, GRID).half().float()


def test_columns_follow_the_model_s_order(data: VisitData) -> None:
    assert data.names == ("t1", "fluid", "tau")
    assert data.observed.tolist() == [[bool(x) for x in row] for row in OBSERVED]
    assert data.baseline.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert data.target.isnan().tolist() == [False, False, False, True, False, False, False]


@settings(max_examples=60, deadline=None)
@given(drawn=st.data())
def test_batch_agrees_with_gathering_visit_by_visit(data: VisitData, table: VisitTable, drawn: st.DataObject) -> None:
    rows = drawn.draw(st.lists(st.integers(0, 6), min_size=1, max_size=11))
    withheld = torch.tensor(
        drawn.draw(st.lists(st.tuples(*[st.booleans()] * 3), min_size=len(rows), max_size=len(rows)))
    )
    left = torch.tensor([OBSERVED[row] for row in rows], dtype=torch.bool) & ~withheld
    if not left.any(1).all():
        with pytest.raises(ValueError, match="every modality of a visit is withheld"):
            data.batch(torch.tensor(rows), withheld)
        return
    batch = data.batch(torch.tensor(rows), withheld)
    assert torch.equal(batch.observed, left)
    assert batch.baseline.tolist() == [1.0 + row for row in rows]
    for j, name in enumerate(data.names):
        having = [row for i, row in enumerate(rows) if left[i, j]]
        assert (name in batch.inputs) == bool(having)
        if having and name == "fluid":
            assert batch.inputs[name].tolist() == [[10.0 * row, -1.0 * row] for row in having]
        elif having:
            expected = torch.stack([volume(table, row, name)[None] for row in having])
            assert torch.equal(batch.inputs[name], expected)


@pytest.mark.parametrize("with_stem", [False, True])
def test_disk_and_memory_give_the_same_batch(table: VisitTable, folder: Path, with_stem: bool) -> None:
    stem = CellStem((2, 3, 5)) if with_stem else None
    cache = VolumeCache(folder / "cache")
    in_memory, _ = VisitData.load(table, MODEL, cache, stem=stem, keep_in_memory=True)
    on_disk, _ = VisitData.load(table, MODEL, cache, stem=stem, keep_in_memory=False)
    assert isinstance(in_memory.inputs["t1"], MemoryRows)
    assert isinstance(on_disk.inputs["t1"], FileRows)
    rows = torch.tensor([4, 0, 6, 5])
    for name, value in in_memory.batch(rows).inputs.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, on_disk.batch(rows).inputs[name], atol=1e-6, rtol=0)
    assert in_memory.batch(rows).inputs["t1"].shape[1:] == ((1, 2, 3, 5) if with_stem else (1, 5, 7, 11))


def test_reading_ahead_changes_no_bit_of_a_training(
    table: VisitTable, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stem = fixed_stem(MODEL)
    data, _ = VisitData.load(table, MODEL, VolumeCache(folder / "cache"), stem=stem, keep_in_memory=False)
    known = data.subset(data.target.isfinite().nonzero().squeeze(1))
    threads, weights = list[str](), []
    plain = VisitData.batch

    def noted(self: VisitData, *args: torch.Tensor) -> Batch:
        threads.append(threading.current_thread().name)
        return plain(self, *args)

    monkeypatch.setattr(VisitData, "batch", noted)
    for is_ahead in (True, False):
        if not is_ahead:
            monkeypatch.setattr(dataset, "one_ahead", map)
        model, settings = make_model(MODEL, 0), TrainConfig(batch_size=3, micro_batch=2, modality_dropout=0.3)
        train_epochs(model, known, settings, first_epoch=0, epochs=2, seed=5)
        weights.append(model.state_dict())
    assert [name.startswith("reading-ahead") for name in threads] == [True] * 8 + [False] * 8
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_pooled_encoders_stem_is_applied_once_to_every_volume(table: VisitTable, folder: Path) -> None:
    stem = fixed_stem(MODEL)
    pooled, _ = VisitData.load(table, MODEL, VolumeCache(folder / "cache"), stem=stem)
    expected = stem(volume(table, 4, "tau")[None, None])
    torch.testing.assert_close(pooled.batch(torch.tensor([4])).inputs["tau"], expected, atol=1e-5, rtol=0)


def test_what_a_stem_made_of_a_volume_is_read_once_a_process_and_again_where_the_image_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, cache, stem = make_table(tmp_path), VolumeCache(tmp_path / "cache"), fixed_stem(MODEL)
    cache.build(table, MODEL.modalities, GRID)
    for entry in cache.folder.glob("*.npy"):
        os.utime(entry, ns=(10**18, 10**18))
    read: list[Path] = []
    monkeypatch.setattr(
        rows_module, "_row", lambda file, stem, plain=rows_module._row: read.append(file) or plain(file, stem)
    )

    def inputs() -> torch.Tensor:
        return VisitData.load(table, MODEL, cache, stem=stem)[0].inputs["t1"].rows

    before = inputs()
    assert len(read) == sum(len(visit.volumes) for visit in table)
    assert torch.equal(before, inputs())
    assert len(read) == sum(len(visit.volumes) for visit in table)
    changed = next(visit.volumes["t1"] for visit in table if "t1" in visit.volumes)
    nib.save(nib.Nifti1Image(np.random.default_rng(9).uniform(0.5, 2.0, GRID.shape), grid_affine(GRID)), changed)
    after = inputs()
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1:], after[1:])


def test_many_volumes_stay_on_disk(table: VisitTable, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = VolumeCache(folder / "cache")
    size = 8 * 5 * 7 * 11 * 2
    monkeypatch.setattr("permmoe.data.dataset.MEMORY_BUDGET_BYTES", size)
    assert isinstance(VisitData.load(table, MODEL, cache)[0].inputs["t1"], MemoryRows)
    monkeypatch.setattr("permmoe.data.dataset.MEMORY_BUDGET_BYTES", size - 1)
    assert isinstance(VisitData.load(table, MODEL, cache)[0].inputs["t1"], FileRows)


def test_subset_keeps_order_and_shares_memory(data: VisitData) -> None:
    rows = torch.tensor([5, 0, 4])
    part = data.subset(rows)
    assert [v.subject_id for v in part.visits] == ["5", "0", "4"]
    assert part.inputs is data.inputs
    mine, theirs = part.batch(torch.tensor([2, 0])), data.batch(torch.tensor([4, 5]))
    assert torch.equal(mine.observed, theirs.observed)
    assert all(torch.equal(mine.inputs[name], theirs.inputs[name]) for name in theirs.inputs)


def test_limited_visits_are_those_of_a_site_that_collected_less(data: VisitData) -> None:
    observed = data.observed.clone()
    observed[:, 0], observed[3] = False, False
    less = data.limited(observed)
    kept = observed.any(1).nonzero().flatten()
    assert [v.subject_id for v in less.visits] == [data.visits.visits[row].subject_id for row in kept.tolist()]
    mine, theirs = less.batch(torch.arange(len(less))), data.batch(kept, withheld=~observed[kept] & data.observed[kept])
    assert torch.equal(mine.observed, theirs.observed) and mine.inputs.keys() == theirs.inputs.keys()
    assert all(torch.equal(mine.inputs[name], theirs.inputs[name]) for name in theirs.inputs)


def test_parts_follow_the_split_and_may_be_empty(data: VisitData) -> None:
    assert [v.subject_id for v in data.part("test").visits] == ["5", "6"]
    # Of the fourth the outcome is not known.
    assert [v.subject_id for v in data.part("train").visits] == ["0", "1", "2", "4"]
    assert [v.subject_id for v in data.scans().visits] == ["0", "1", "2", "3", "4"]
    assert len(data.part("validation")) == 0


def test_broken_volume_costs_its_modality_and_an_empty_visit_is_dropped(table: VisitTable, folder: Path) -> None:
    broken = folder / "broken.nii"
    broken.write_bytes(b"broken" * 100)
    visits = list(table)
    visits[1] = replace(visits[1], volumes={"t1": broken})
    visits[3] = replace(visits[3], volumes={"tau": folder / "absent.nii"})
    data, quarantine = VisitData.load(VisitTable(tuple(visits)), MODEL, VolumeCache(folder / "cache"))
    assert [v.subject_id for v in data.visits] == ["0", "1", "2", "4", "5", "6"]
    assert data.visits.visits[1].observed(data.names) == ("fluid",)
    assert data.observed[1].tolist() == [False, True, False]
    assert [(i.subject_id, i.modality, i.reason) for i in quarantine] == [
        ("1", "t1", "header cannot be read"),
        ("3", "tau", "file not found"),
        ("3", "", "no modality that can be used"),
    ]
    tau = data.batch(torch.tensor([3])).inputs["tau"]
    assert torch.equal(tau[0, 0], volume(table, 4, "tau"))


def test_modalities_that_the_model_does_not_know_are_left_out(table: VisitTable, folder: Path) -> None:
    only_tau = MODEL.model_copy(update={"modalities": MODEL.modalities[2:]})
    data, quarantine = VisitData.load(table, only_tau, VolumeCache(folder / "cache"))
    assert [v.subject_id for v in data.visits] == ["0", "3", "4", "5"]
    assert data.observed.all()
    assert {item.reason for item in quarantine} == {"no modality that can be used"}


def test_nobody_gives_empty_data(folder: Path) -> None:
    data, quarantine = VisitData.load(VisitTable(()), MODEL, VolumeCache(folder / "cache"), stem=fixed_stem(MODEL))
    assert len(data) == 0
    assert data.observed.shape == (0, 3)
    assert len(quarantine) == 0


def _fluid(model: ModelConfig) -> Modality:
    return next(modality for modality in model.modalities if modality.name == "fluid")


def test_scaling_is_fitted_on_the_training_visits_alone(data: VisitData, table: VisitTable, folder: Path) -> None:
    scaled = _fluid(fit_scaling(data.part("train"), MODEL))
    fluid = np.array([table.visits[row].tables["fluid"] for row in (1, 2, 4)])
    np.testing.assert_allclose(scaled.means, fluid.mean(0), rtol=1e-6)
    np.testing.assert_allclose(scaled.deviations, fluid.std(0), rtol=1e-6)
    others = [replace(v, tables={"fluid": (1e6, 1e6)}) if v.split == "test" else v for v in table]
    changed, _ = VisitData.load(VisitTable(tuple(others)), MODEL, VolumeCache(folder / "cache"))
    assert _fluid(fit_scaling(changed.part("train"), MODEL)) == scaled


def test_a_scale_that_is_declared_stays(data: VisitData) -> None:
    once = fit_scaling(data.part("train"), MODEL)
    assert fit_scaling(data.subset(torch.tensor([2])), once) == once


def test_constant_column_keeps_its_unit(data: VisitData) -> None:
    assert _fluid(fit_scaling(data.subset(torch.tensor([2])), MODEL)).deviations == (1.0, 1.0)
