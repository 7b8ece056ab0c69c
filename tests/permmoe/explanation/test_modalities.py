"""What each modality adds is a Shapley value: it adds up, and what plays no part has no share."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from permmoe.data.batch import Batch
from permmoe.errors import ConfigurationError
from permmoe.explanation.modalities import SCORE, added, shapley
from permmoe.model import PerMMoE
from tests.support.model_batches import random_batch, small_config
from tests.support.small_visits import alone, small_visits

MEAN_SCORE = 1.5


def line(score: float) -> float:
    return 0.7 + 0.2 * (score - MEAN_SCORE)


def free(change: float, score: float) -> float:
    return change


def model(n_volumes: int = 3, n_tables: int = 1, **settings: object) -> PerMMoE:
    torch.manual_seed(3)
    network = PerMMoE(small_config(n_volumes, n_tables, **settings)).eval()
    with torch.no_grad():
        network.head.out.weight.mul_(20)
    return network


def one_visit(network: PerMMoE, *observed: bool) -> Batch:
    torch.manual_seed(5)
    return random_batch(network.config, torch.tensor([observed]))


@given(st.lists(st.floats(-5, 5), min_size=16, max_size=16))
def test_a_value_is_the_mean_over_all_orders_in_which_players_come(worth: list[float]) -> None:
    players = ("a", "b", "c", "d")

    def value(coalition: frozenset[str]) -> float:
        return worth[sum(1 << players.index(p) for p in coalition)]

    found = shapley(players, value)
    for player in players:
        gains = []
        for order in permutations(players):
            before = frozenset(order[: order.index(player)])
            gains.append(value(before | {player}) - value(before))
        assert found[player] == pytest.approx(sum(gains) / len(gains), abs=1e-9)


def test_expected_score_and_modalities_add_up_to_the_prediction() -> None:
    network = model()
    batch = one_visit(network, True, True, False, True)
    with torch.no_grad():
        prediction = float(network(batch).prediction)
        found = added(network, network.encode(batch), line, MEAN_SCORE, free)
    assert found.prediction == pytest.approx(prediction, abs=1e-5)
    assert found.expected == line(MEAN_SCORE)
    assert min(map(abs, found.modalities.values())) > 1e-4


def test_a_withheld_modality_adds_nothing_and_is_not_named() -> None:
    network = model()
    batch = one_visit(network, True, True, False, True)
    with torch.no_grad():
        found = added(network, network.encode(batch), line, MEAN_SCORE, free)
    assert list(found.modalities) == ["volume0", "volume1", "table0"]


def test_values_are_those_of_visits_that_never_had_the_other_scans() -> None:
    """The slow way: each combination as a visit of its own through the whole model."""
    network = model()
    data = small_visits(network.config, 1, seed=2, observed=torch.ones(1, 4, dtype=torch.bool))
    names, own = network.config.names, float(data.baseline[0])

    def value(coalition: frozenset[str]) -> float:
        score = own if SCORE in coalition else MEAN_SCORE
        kept = tuple(name for name in names if name in coalition)
        if not kept:
            return line(score)
        batch = alone(data, 0, kept)
        return float(network(Batch(batch.inputs, batch.observed, torch.tensor([score]), batch.target)).prediction)

    with torch.no_grad():
        slow = shapley((*names, SCORE), value)
        found = added(network, network.encode(data.batch(torch.tensor([0]))), line, MEAN_SCORE, free)
    assert found.modalities == pytest.approx({name: slow[name] for name in names}, abs=1e-5)
    assert found.score == pytest.approx(slow[SCORE], abs=1e-5)


def test_a_prediction_at_the_end_of_the_scale_is_taken_apart_as_it_is_shown() -> None:
    network = model()
    batch = one_visit(network, True, False, False, True)
    with torch.no_grad():
        found = added(network, network.encode(batch), line, MEAN_SCORE, lambda change, score: min(change, 0.25))
    assert found.prediction <= 0.25 + 1e-6 and found.expected == 0.25


def test_more_modalities_than_can_be_asked_in_all_combinations_are_refused() -> None:
    network = model(0, 13)
    batch = one_visit(network, *[True] * 13)
    with torch.no_grad(), pytest.raises(ConfigurationError, match="at most 12 modalities"):
        added(network, network.encode(batch), line, MEAN_SCORE, free)
