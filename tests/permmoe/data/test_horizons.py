"""What is known at which horizon, and what of that a model is given."""

from datetime import date, timedelta
from math import isnan, nan
from pathlib import Path
from typing import Literal

import pytest
import torch

from permmoe.config import ModelConfig, SplitConfig
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.data.horizons import Horizons
from permmoe.data.index_visits import Subject, select_index_visits
from permmoe.data.reasons import Reason
from permmoe.data.splits import assign_splits
from permmoe.data.target_rule import Assessment, TargetRule
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import DataError
from permmoe.modality import Modality

FLUID = Modality(name="fluid", kind="tabular", columns=("ptau",))
MODEL = ModelConfig(modalities=(FLUID,), horizons_months=(12.0, 24.0, 36.0))


def visit(
    name: str,
    change: float | None,
    later: dict[float, float],
    months: float = 24.0,
    split: Literal["", "train", "test"] = "train",
) -> Visit:
    tables = {"fluid": (1.0,)}
    return Visit(name, "x", "bl", 1.0, change, months, tables=tables, later_changes=later, split=split)


VISITS = VisitTable(
    (
        visit("a", 1.0, {12.0: 0.5, 36.0: 3.0}),
        visit("b", 2.0, {}),
        visit("c", None, {36.0: 4.0}),
        visit("d", None, {36.0: 4.0}, split="test"),
        visit("e", 0.5, {12.0: 0.0}, split="test"),
    )
)


def loaded(tmp_path: Path, model: ModelConfig = MODEL) -> VisitData:
    return VisitData.load(VISITS, model, VolumeCache(tmp_path))[0]


def test_changes_are_looked_for_at_every_horizon_by_the_same_rule() -> None:
    start = date(2010, 1, 1)
    assessments = [
        Assessment(start + timedelta(days=days), score, "MCI", "", values={"ptau": 1.0})
        for days, score in ((0, 1.0), (380, 1.5), (730, 2.0), (1500, 6.0))
    ]
    rule = TargetRule(further_horizons_months=(12.0, 36.0, 48.0))
    subjects = [Subject("a", "x", assessments)]
    (found,) = select_index_visits(subjects, rule, (FLUID,), without_site=Reason.NO_IDENTITY).visits
    assert found.delta_cdrsb == 1.0
    assert found.later_changes == {12.0: 0.5, 48.0: 5.0}


def test_one_horizon_leaves_rule_and_table_with_the_digests_that_they_had() -> None:
    assert "further_horizons_months" not in TargetRule().model_dump()
    assert "horizons_months" not in ModelConfig().model_dump()
    plain, more = VisitTable((visit("a", 1.0, {}),)), VisitTable((visit("a", 1.0, {12.0: 0.5}),))
    assert plain.digest() != more.digest()
    assert plain.digest() == "1f92f9e7823f29057e66802471a338a55b2bf5969cdeaa755fcad9f81928f302"


def test_a_visit_trains_if_any_change_is_known_and_is_judged_by_that_of_the_table_alone(tmp_path: Path) -> None:
    told, plain = loaded(tmp_path), loaded(tmp_path, MODEL.model_copy(update={"horizons_months": ()}))
    assert [v.subject_id for v in told.part("train").visits] == ["a", "b", "c"]
    assert [v.subject_id for v in plain.part("train").visits] == ["a", "b"]
    for data in (told, plain):
        assert [v.subject_id for v in data.part("test").visits] == ["e"]


def test_a_patient_who_is_seen_at_another_horizon_alone_is_neither_validated_nor_tested() -> None:
    table = VisitTable(tuple(visit(f"s{i}", None if i % 3 else 1.0, {36.0: 1.0}, split="") for i in range(30)))
    parts = assign_splits(table, SplitConfig())
    assert {v.split for v in parts if v.delta_cdrsb is None} == {"train"}
    assert {v.split for v in parts if v.delta_cdrsb is not None} == {"train", "validation", "test"}


def test_a_batch_has_the_outcome_of_the_horizon_that_it_names(tmp_path: Path) -> None:
    data, rows = loaded(tmp_path), torch.tensor([0, 2, 0])
    batch = data.batch(rows, None, torch.tensor([0, 2, 2]))
    assert batch.horizon is not None and batch.horizon.tolist() == [12.0, 36.0, 36.0]
    assert batch.target.tolist() == [0.5, 4.0, 3.0]
    own = data.batch(rows)
    assert own.horizon is not None and own.horizon.tolist() == [24.0, 24.0, 24.0]
    assert own.target[0] == 1.0 and isnan(own.target[1])
    assert loaded(tmp_path, MODEL.model_copy(update={"horizons_months": ()})).batch(rows).horizon is None


def test_each_known_horizon_of_a_visit_is_drawn_with_the_same_chance_and_no_unknown_one() -> None:
    n = 3000
    changes = torch.tensor([[0.1, 0.2, 0.3], [nan, 0.2, 0.3], [nan, nan, 0.3]]).repeat(n, 1)
    drawn = Horizons(torch.tensor([12.0, 24.0, 36.0]), changes, torch.full((3 * n,), 24.0)).drawn(
        torch.Generator().manual_seed(0)
    )
    shares = [torch.bincount(drawn[row::3], minlength=3) / n for row in range(3)]
    assert torch.stack(shares).tolist() == pytest.approx(
        torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0, 0.5, 0.5], [0, 0, 1]]), abs=0.03
    )


def test_a_visit_without_any_known_change_cannot_be_drawn() -> None:
    nobody = Horizons(torch.tensor([12.0, 24.0]), torch.full((1, 2), nan), torch.tensor([24.0]))
    with pytest.raises(ValueError, match="no change of a visit is known at any horizon"):
        nobody.drawn(torch.Generator())


def test_a_table_of_a_horizon_beyond_the_model_s_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    far = VisitTable((visit("a", 1.0, {}, months=60.0),))
    with pytest.raises(DataError, match=r"60 months after the visit, and the model is told of 12 to 36 months: choose"):
        VisitData.load(far, MODEL, VolumeCache(tmp_path))
    between = VisitTable((visit("a", 1.0, {}, months=30.0),))
    assert len(VisitData.load(between, MODEL, VolumeCache(tmp_path))[0]) == 1
