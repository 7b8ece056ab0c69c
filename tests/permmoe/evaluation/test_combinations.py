"""Every combination is evaluated on every visit that has it, and sums over sites equal figures over all visits."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

import permmoe.evaluation.combinations as evaluation
from permmoe.config import EncoderConfig, RidgeConfig, VolumeGrid
from permmoe.data.dataset import VisitData
from permmoe.evaluation.combinations import (
    STRATA,
    ErrorSums,
    combination_predictions,
    combination_sums,
    error_sums,
)
from permmoe.modality import all_combinations, combination_name
from permmoe.model import PerMMoE
from permmoe.training.means import set_means
from permmoe.training.seeds import make_model
from tests.support.model_batches import small_config
from tests.support.small_visits import alone, small_visits

CONFIG = small_config(n_volumes=2, n_tables=1, dropout=0.3)
NOTHING = ErrorSums(0, 0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def model() -> PerMMoE:
    return make_model(CONFIG, 0)


@pytest.fixture(scope="module")
def visits() -> VisitData:
    return small_visits(CONFIG, 29)


def one_by_one(model: PerMMoE, data: VisitData) -> np.ndarray:
    """The slow way: a forward pass for every visit with every combination."""
    expected = np.full((len(data), 7), np.nan)
    model.eval()
    for row in range(len(data)):
        has = {name for name, seen in zip(data.names, data.observed[row].tolist(), strict=True) if seen}
        for column, combination in enumerate(all_combinations(data.names)):
            if set(combination) <= has:
                with torch.no_grad():
                    expected[row, column] = model(alone(data, row, combination)).prediction.item()
    model.train()
    return expected


@pytest.mark.parametrize("with_ridge", [False, True])
@pytest.mark.parametrize("rows_a_pass", [3, 256])
def test_combination_predictions_agree_with_one_visit_at_a_time(
    visits: VisitData, monkeypatch: pytest.MonkeyPatch, rows_a_pass: int, with_ridge: bool
) -> None:
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", rows_a_pass)
    model = make_model(CONFIG.model_copy(update={"ridge": RidgeConfig(cells=(1, 3, 2)) if with_ridge else None}), 0)
    set_means(model, visits)
    predictions, expected = combination_predictions(model, visits), one_by_one(model, visits)
    assert np.array_equal(np.isnan(predictions), np.isnan(expected))
    assert 0 < np.isnan(expected).sum() < expected.size
    np.testing.assert_allclose(predictions, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["pooled", "sfcn_lite"])
def test_a_visit_is_encoded_once_for_all_of_its_combinations(kind: str) -> None:
    encoder = EncoderConfig.model_validate({"kind": kind, "cells": (2, 3, 5)})
    config = CONFIG.model_copy(update={"encoder": encoder, "grid": VolumeGrid(shape=(8, 9, 7))})
    model, data = make_model(config, 0), small_visits(config, 19)
    encoded = dict.fromkeys(config.names, 0)
    for name, module in model.encoders.items():
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: encoded.update({name: encoded[name] + len(inputs[0])})
        )
    predictions = combination_predictions(model, data)
    assert list(encoded.values()) == data.observed.sum(0).tolist()
    np.testing.assert_allclose(predictions, one_by_one(model, data), atol=1e-5)


@pytest.mark.parametrize("is_training", [False, True])
def test_evaluation_switches_dropout_off_and_leaves_the_mode_as_it_was(
    model: PerMMoE, visits: VisitData, is_training: bool
) -> None:
    model.train(is_training)
    first, again = combination_predictions(model, visits), combination_predictions(model, visits)
    assert np.array_equal(first, again, equal_nan=True)
    assert model.training is is_training


def test_combination_that_nobody_has_is_counted_as_none(model: PerMMoE) -> None:
    data = small_visits(CONFIG, 5, observed=torch.tensor([[True, False, True]]).expand(5, 3))
    sums = combination_sums(model, data)
    assert {name: s.n for name, s in sums.items()} == {
        combination_name(c): 0 if CONFIG.names[1] in c else 5 for c in all_combinations(CONFIG.names)
    }
    empty = sums[CONFIG.names[1]]
    assert np.isnan([empty.rmse, empty.mae, empty.r2]).all()
    assert np.isfinite(evaluation.mean_squared_error(sums))


def test_nobody_gives_no_figure(model: PerMMoE, visits: VisitData) -> None:
    nobody = visits.subset(torch.tensor([], dtype=torch.long))
    assert combination_predictions(model, nobody).shape == (0, 7)
    sums = combination_sums(model, nobody)
    assert {s.n for s in sums.values()} == {0}
    assert np.isnan(evaluation.mean_squared_error(sums))


def test_error_sums_give_sklearn_s_figures() -> None:
    rng = np.random.default_rng(0)
    target, prediction = rng.normal(size=31), rng.normal(size=31)
    sums = error_sums(prediction, target)
    assert sums.n == 31
    assert sums.rmse == pytest.approx(mean_squared_error(target, prediction) ** 0.5)
    assert sums.mae == pytest.approx(mean_absolute_error(target, prediction))
    assert sums.r2 == pytest.approx(r2_score(target, prediction))


@given(cut=st.lists(st.integers(0, 41), max_size=5))
def test_sums_of_sites_equal_the_sums_of_all_visits(cut: list[int]) -> None:
    rng = np.random.default_rng(1)
    target, prediction = rng.normal(size=41), rng.normal(size=41)
    prediction[::7] = np.nan
    parts = [
        error_sums(p, y) for p, y in zip(np.split(prediction, sorted(cut)), np.split(target, sorted(cut)), strict=True)
    ]
    pooled, added = error_sums(prediction, target), reduce(add, parts, NOTHING)
    assert added.n == pooled.n == 35
    assert (added.rmse, added.mae, added.r2) == pytest.approx((pooled.rmse, pooled.mae, pooled.r2))


def test_unknown_predictions_and_targets_are_left_out() -> None:
    target, prediction = np.array([1.0, np.nan, 3.0, 4.0]), np.array([2.0, 2.0, np.nan, 4.0])
    assert error_sums(prediction, target) == ErrorSums(2, 1.0, 1.0, 5.0, 17.0)
    nothing = error_sums(np.full(3, np.nan), np.ones(3))
    assert nothing == NOTHING
    assert np.isnan([nothing.rmse, nothing.mae, nothing.r2]).all()


def test_r2_is_unknown_where_targets_do_not_vary() -> None:
    assert np.isnan(error_sums(np.array([1.0]), np.array([2.0])).r2)
    assert np.isnan(error_sums(np.array([1.0, 2.0]), np.array([2.0, 2.0])).r2)


def test_strata_have_the_paper_s_borders() -> None:
    baseline, target = np.array([5.0, 5.5, 0.0, 9.0]), np.array([0.0, 0.5, 1.0, 1.5])
    inside = {name: belongs(baseline, target).tolist() for name, belongs in STRATA.items()}
    assert inside == {
        "all": [True] * 4,
        "small_change": [False, True, True, False],
        "severe_baseline": [False, True, False, True],
    }
