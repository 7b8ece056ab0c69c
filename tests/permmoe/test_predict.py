"""Predictions are held on the scale, and the model's card says what its images were like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from permmoe.config import HarmonisationConfig, Score, require_unharmonised
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError
from permmoe.evaluation.harmonised import harmonised
from permmoe.model import PerMMoE
from permmoe.predict import TrainedModel, predict
from permmoe.runtime.checkpoint_card import says_synthetic
from permmoe.training.site_moments import set_site_moments
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


def test_a_hospitals_images_are_harmonised_together_and_what_few_have_is_read_as_it_is(tmp_path: Path) -> None:
    settings = HarmonisationConfig(covariates=(), least_visits=10)
    network = PerMMoE(MODEL.model_copy(update={"harmonisation": settings}))
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        # Two sites that differ have told.
        set_site_moments(network, data_of(at_hospital("north", 13, 0.0, drawn), network, tmp_path))
        moments = network.get_submodule("harmonisation.moments.clinical")
        moments.between_features.copy_(moments.features.square() + 1)
    table = VisitTable((*at_hospital("west", 11, 3.0, drawn), *at_hospital("south", 1, 3.0, drawn)))
    model = TrainedModel(network.eval())
    found, _ = predict(model, table, VolumeCache(tmp_path))
    assert network.harmonisation
    west = harmonised(network.harmonisation, data_of(table.visits[:11], network, tmp_path)).data
    expected = network(west.batch(torch.arange(11))).prediction
    raw = network(data_of(table.visits[:11], network, tmp_path).batch(torch.arange(11))).prediction
    told = [p.delta_cdrsb for p in found[:11]]
    assert told == pytest.approx(expected.tolist(), abs=1e-6) and not torch.allclose(expected, raw, atol=1e-3)
    assert all(not p.as_scanned for p in found[:11])
    assert found[11].as_scanned == {"clinical": "1 patients have it, and 10 are needed to tell scanners from patients"}


def at_hospital(site: str, n: int, shift: float, drawn: torch.Generator) -> tuple[Visit, ...]:
    numbers = (shift + torch.randn(n, 3, generator=drawn)).tolist()
    scores = (4 + torch.rand(n, generator=drawn)).tolist()
    return tuple(
        Visit(f"{site}-{i}", site, "bl", scores[i], None, 24.0, tables={"clinical": tuple(numbers[i])})
        for i in range(n)
    )


def data_of(visits: tuple[Visit, ...], network: PerMMoE, cache: Path) -> VisitData:
    return VisitData.load(VisitTable(visits), network.config, VolumeCache(cache))[0]


@pytest.mark.parametrize("option", ["--report", "--onnx or --monai-bundle"])
def test_what_has_one_patient_at_a_time_refuses_a_model_of_harmonised_images(option: str) -> None:
    require_unharmonised(MODEL, option)
    with pytest.raises(ConfigurationError, match=f"{option} has one patient at a time; leave {option} out"):
        require_unharmonised(MODEL.model_copy(update={"harmonisation": HarmonisationConfig()}), option)


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
