"""Predictions are held on the scale, and the model's card says what its images were like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from permmoe.config import Score
from permmoe.data.cache import VolumeCache
from permmoe.data.visits import Visit, VisitTable
from permmoe.model import PerMMoE
from permmoe.predict import TrainedModel, predict
from permmoe.runtime.checkpoint_card import says_synthetic
from tests.support.tiny_federation import MODEL

NUMBERS = {"clinical": (0.1, -0.4, 1.2)}


def visit(baseline: float) -> Visit:
    return Visit(f"s-{baseline}", "north", "bl", baseline, None, 24.0, tables=NUMBERS)


def steep(sign: int, **settings: object) -> TrainedModel:
    """A model that predicts changes far beyond any scale."""
    model = PerMMoE(MODEL.model_copy(update=settings))
    with torch.no_grad():
        model.head.out.weight.zero_()
        model.head.out.bias.fill_(sign * 66.0)
    return TrainedModel(model.eval())


@pytest.mark.parametrize("baseline", [0.0, 0.5, 7.0, 18.0])
@pytest.mark.parametrize(("sign", "end"), [(1, 18.0), (-1, 0.0)])
def test_the_score_at_the_horizon_is_on_the_scale(baseline: float, sign: int, end: float, tmp_path: Path) -> None:
    found, _ = predict(steep(sign), VisitTable((visit(baseline),)), VolumeCache(tmp_path))
    assert baseline + found[0].delta_cdrsb == end


def test_a_prediction_on_the_scale_is_not_touched(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TrainedModel(PerMMoE(MODEL).eval())
    free = TrainedModel(PerMMoE(MODEL.model_copy(update={"outcome_range": None})).eval())
    free.network.load_state_dict(model.network.state_dict())
    table = VisitTable((visit(3.0), visit(9.0)))
    assert predict(model, table, VolumeCache(tmp_path))[0] == predict(free, table, VolumeCache(tmp_path))[0]


def test_an_outcome_of_another_kind_has_no_scale_but_its_own(tmp_path: Path) -> None:
    table = VisitTable((visit(17.0),))
    assert predict(steep(1, outcome_range=None), table, VolumeCache(tmp_path))[0][0].delta_cdrsb == 66.0
    assert predict(steep(1, outcome_range=(0.0, 12.0)), table, VolumeCache(tmp_path))[0][0].delta_cdrsb == 12.0


def test_another_score_that_the_model_declares_has_its_own_scale(tmp_path: Path) -> None:
    mmse = {"score": Score(name="MMSE", lowest=0, highest=30), "outcome_range": None}
    table = VisitTable((visit(27.0),))
    assert predict(steep(1, **mmse), table, VolumeCache(tmp_path))[0][0].delta_cdrsb == 3.0
    assert predict(steep(-1, **mmse), table, VolumeCache(tmp_path))[0][0].delta_cdrsb == -27.0


def test_no_visit_gives_no_prediction(tmp_path: Path) -> None:
    found, left_out = predict(steep(1), VisitTable(()), VolumeCache(tmp_path))
    assert found == [] and not len(left_out)
    bare = replace(visit(1.0), tables={})
    found, left_out = predict(steep(1), VisitTable((bare,)), VolumeCache(tmp_path))
    assert found == [] and len(left_out) == 1


def test_a_card_is_synthetic_where_it_or_its_plan_says_so() -> None:
    assert says_synthetic({"is_synthetic": True}) and says_synthetic({"plan": {"is_synthetic": True}})
    for card in ({}, {"is_synthetic": False}, {"is_synthetic": "no"}, {"plan": None}, {"plan": {"is_synthetic": 0}}):
        assert not says_synthetic(card)
