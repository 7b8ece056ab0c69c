"""Expert activation counts every token of every combination, and shows collapse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from permmoe.data.dataset import VisitData
from permmoe.evaluation.activation import expert_activation
from permmoe.modality import all_combinations
from permmoe.model import PerMMoE
from permmoe.training.seeds import make_model
from tests.support.model_batches import small_config
from tests.support.small_visits import alone, small_visits

CONFIG = small_config(n_volumes=2, n_tables=1, dropout=0.3)


@pytest.fixture(scope="module")
def model() -> PerMMoE:
    return make_model(CONFIG, 0)


@pytest.fixture(scope="module")
def visits() -> VisitData:
    return small_visits(CONFIG, 29)


def test_expert_activation_agrees_with_counting_token_by_token(model: PerMMoE, visits: VisitData) -> None:
    activation = expert_activation(model, visits)
    expected = np.zeros((7, 3, CONFIG.experts))
    model.eval()
    for row in range(29):
        has = {name for name, seen in zip(visits.names, visits.observed[row].tolist(), strict=True) if seen}
        for place, combination in enumerate(all_combinations(visits.names)):
            if set(combination) <= has:
                with torch.no_grad():
                    gates = model(alone(visits, row, combination)).routing.gates[0]
                expected[place] += (gates > 0).sum(1).numpy()
    np.testing.assert_allclose(activation.share.sum(2), 1.0)
    np.testing.assert_allclose(activation.share, expected / expected.sum(2, keepdims=True), atol=2e-3)
    load = expected.sum((0, 1))
    assert activation.load_cv == pytest.approx(load.std() / load.mean(), abs=2e-3)
    assert activation.collapsed_experts == (load < 0.01 * load.sum()).sum()


def test_collapse_is_seen(visits: VisitData) -> None:
    model = make_model(small_config(n_volumes=2, n_tables=1, top_k=1, experts=5), 0)
    with torch.no_grad():
        for parameter in model.routers.parameters():
            parameter.zero_()
    activation = expert_activation(model, visits)
    assert activation.collapsed_experts == 4
    assert activation.load_cv == pytest.approx(2.0)


def test_without_a_visit_there_is_no_share_and_no_load(model: PerMMoE, visits: VisitData) -> None:
    activation = expert_activation(model, visits.subset(torch.tensor([], dtype=torch.long)))
    assert np.isnan(activation.share).all() and np.isnan(activation.load_cv)
