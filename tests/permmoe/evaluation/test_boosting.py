"""Boosted trees: which numbers they are given, whose they are, and which settings are chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingRegressor

import permmoe.evaluation.boosting as module
from permmoe.data.dataset import VisitData
from permmoe.data.rows import MemoryRows
from permmoe.evaluation.boosting import TRIED, boosting
from permmoe.modality import all_combinations
from tests.support.model_batches import small_config
from tests.support.small_visits import small_visits

CONFIG = small_config(n_volumes=1, n_tables=2)
"""Modalities of 30 cells, 1 column and 2 columns, behind baseline CDR-SB."""
COLUMNS = {"volume0": slice(1, 31), "table0": slice(31, 32), "table1": slice(32, 34)}


class Recorded(HistGradientBoostingRegressor):  # type: ignore[misc]
    """What every model was fitted to and asked, in order."""

    fits: ClassVar[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = []
    asked: ClassVar[list[np.ndarray]] = []

    def fit(self, x: np.ndarray, y: np.ndarray, sample_weight: np.ndarray) -> Recorded:
        """Keeps its arguments."""
        Recorded.fits.append((x, y, sample_weight))
        return super().fit(x, y, sample_weight)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Keeps its argument."""
        Recorded.asked.append(x)
        return np.asarray(super().predict(x))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    monkeypatch.setattr("sklearn.ensemble.HistGradientBoostingRegressor", Recorded)
    Recorded.fits, Recorded.asked = [], []
    return Recorded


def expected_rows(data: VisitData) -> list[np.ndarray]:
    """Visit by visit and combination by combination, the slow and obvious way."""
    rows = []
    for i in range(len(data)):
        for combination in all_combinations(data.names):
            if all(data.observed[i, data.names.index(name)] for name in combination):
                row = np.full(34, np.nan)
                row[0] = float(data.baseline[i])
                for name in combination:
                    stored = data.stored_rows[[i], data.names.index(name)]
                    row[COLUMNS[name]] = data.inputs[name].read(stored).flatten().numpy()
                rows.append(row)
    return rows


def test_trees_get_the_numbers_of_each_combination_and_nothing_of_other_modalities(recorded: type[Recorded]) -> None:
    train, test = small_visits(CONFIG, 31), small_visits(CONFIG, 13, seed=1)
    boosting(train, test)
    np.testing.assert_array_equal(recorded.fits[-1][0], np.stack(expected_rows(train)))
    np.testing.assert_array_equal(recorded.asked[-1], np.stack(expected_rows(test)))


def test_every_training_visit_weighs_alike(recorded: type[Recorded]) -> None:
    train = small_visits(CONFIG, 31)
    boosting(train, small_visits(CONFIG, 13, seed=1))
    x, y, weights = recorded.fits[-1]
    of_visit = [weights[x[:, 0] == float(baseline)].sum() for baseline in train.baseline]
    np.testing.assert_allclose(of_visit, 1.0)
    for baseline, target in zip(train.baseline, train.target, strict=True):
        assert (y[x[:, 0] == float(baseline)] == float(target)).all()


def test_no_visit_judges_settings_that_it_was_fitted_with(recorded: type[Recorded]) -> None:
    boosting(small_visits(CONFIG, 31), small_visits(CONFIG, 13, seed=1))
    assert len(recorded.fits) == 5 * len(TRIED) + 1
    for (fitted, _, _), asked in zip(recorded.fits[:-1], recorded.asked[:-1], strict=True):
        assert not set(fitted[:, 0]) & set(asked[:, 0])


def test_settings_with_the_least_error_on_visits_held_out_are_chosen(
    recorded: type[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRIED", ((1e-6, 3), (0.05, 3), (1e-5, 3)))
    train = small_visits(CONFIG, 200)
    informative = {**train.inputs, "table0": MemoryRows(train.target[train.observed[:, 1]][:, None])}
    chosen: list[float] = []
    original = module._fitted

    def fitted(*arguments: object) -> object:
        chosen.append(arguments[3])  # type: ignore[arg-type]
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_fitted", fitted)
    boosting(replace(train, inputs=informative), small_visits(CONFIG, 7, seed=1))
    assert chosen[-1] == 0.05


def test_with_few_training_visits_their_mean_is_predicted() -> None:
    train, test = small_visits(CONFIG, 9), small_visits(CONFIG, 13, seed=1)
    found = boosting(train, test)
    assert np.unique(found[~np.isnan(found)]).tolist() == [float(train.target.double().mean())]


def test_a_modality_of_a_single_training_visit_which_some_fold_lacks_is_no_error() -> None:
    observed = torch.ones(31, 3, dtype=torch.bool)
    observed[1:, 1] = False
    found = boosting(small_visits(CONFIG, 31, observed=observed), small_visits(CONFIG, 13, seed=1))
    assert np.isfinite(found).any(1).all()


def test_a_modality_that_no_training_visit_has_says_nothing() -> None:
    observed = torch.ones(31, 3, dtype=torch.bool)
    train = small_visits(CONFIG, 31, observed=observed & torch.tensor([True, False, True]))
    test = small_visits(CONFIG, 13, seed=1, observed=torch.ones(13, 3, dtype=torch.bool))
    found = boosting(train, test)
    combinations = all_combinations(CONFIG.names)
    with_it = found[:, combinations.index(("volume0", "table0"))]
    np.testing.assert_array_equal(with_it, found[:, combinations.index(("volume0",))])
    assert np.isfinite(found).all()
