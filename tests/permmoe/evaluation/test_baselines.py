"""Nothing is fitted outside the training visits, and a reference says nothing where a visit lacks the combination."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV, KFold

import permmoe.evaluation.baselines as baselines
from permmoe.data.dataset import VisitData
from permmoe.data.rows import MemoryRows
from permmoe.data.visits import VisitTable
from permmoe.errors import ConfigurationError
from permmoe.evaluation.baselines import BASELINES, clinical_null, horizon_ridge, kernel_ridge, training_mean
from permmoe.evaluation.combinations import error_sums
from permmoe.modality import all_combinations
from tests.support.model_batches import small_config
from tests.support.small_visits import small_visits
from tests.support.told_visits import told

CONFIG = small_config(n_volumes=2, n_tables=1)
BY_NAME = BASELINES | {"horizon_ridge": lambda train, test: horizon_ridge(told(train), told(test))}
"""All of them, the one that is told the horizon too, where all changes are of one."""


@pytest.fixture(scope="module")
def train() -> VisitData:
    return small_visits(CONFIG, 61)


@pytest.fixture(scope="module")
def test() -> VisitData:
    return small_visits(CONFIG, 23, seed=1)


@pytest.mark.parametrize("name", BY_NAME)
def test_targets_of_the_test_visits_change_nothing(train: VisitData, test: VisitData, name: str) -> None:
    predictions = BY_NAME[name](train, test)
    unknown = replace(test, target=torch.full_like(test.target, float("nan")))
    assert np.array_equal(BY_NAME[name](train, unknown), predictions, equal_nan=True)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_test_visit_s_prediction_does_not_depend_on_the_others(train: VisitData, test: VisitData, name: str) -> None:
    together = BY_NAME[name](train, test)
    alone = BY_NAME[name](train, test.subset(torch.tensor([4])))
    np.testing.assert_allclose(alone[0], together[4], rtol=1e-6)


@pytest.mark.parametrize("name", BY_NAME)
def test_training_targets_do_matter(train: VisitData, test: VisitData, name: str) -> None:
    shifted = replace(train, target=train.target + 3)
    difference = BY_NAME[name](shifted, test) - BY_NAME[name](train, test)
    np.testing.assert_allclose(difference[~np.isnan(difference)], 3.0, atol=1e-3)


@pytest.mark.parametrize("name", BY_NAME)
def test_visits_without_the_combination_get_no_prediction(train: VisitData, test: VisitData, name: str) -> None:
    predictions = BY_NAME[name](train, test)
    expected = [
        [
            all(test.observed[row, test.names.index(m)] for m in combination)
            for combination in all_combinations(test.names)
        ]
        for row in range(len(test))
    ]
    assert (~np.isnan(predictions)).tolist() == expected


def test_training_mean_is_the_training_visits_mean(train: VisitData, test: VisitData) -> None:
    predictions = training_mean(train, test)
    assert set(predictions[~np.isnan(predictions)]) == {float(train.target.double().mean())}


def test_clinical_null_uses_baseline_and_age_and_no_image(train: VisitData, test: VisitData) -> None:
    learnable = replace(train, target=0.5 * train.baseline - 1)
    full = test.observed.all(1).numpy()
    predictions = clinical_null(learnable, test)[full, -1]
    np.testing.assert_allclose(predictions, 0.5 * test.baseline.numpy()[full] - 1, atol=0.05)
    no_image = replace(train, inputs={}), replace(test, inputs={})
    assert np.array_equal(clinical_null(*no_image), clinical_null(train, test), equal_nan=True)


def test_missing_ages_take_the_training_mean(train: VisitData, test: VisitData) -> None:
    ages = [v.age_years for v in train.visits if v.age_years is not None]
    filled = VisitTable(
        tuple(v if v.age_years is not None else replace(v, age_years=float(np.mean(ages))) for v in test.visits)
    )
    predictions = clinical_null(train, test)
    assert np.array_equal(clinical_null(train, replace(test, visits=filled)), predictions, equal_nan=True)
    nobody = VisitTable(tuple(replace(v, age_years=None) for v in train.visits))
    assert np.isfinite(clinical_null(replace(train, visits=nobody), test)[test.observed.all(1).numpy()]).all()


def test_kernel_ridge_is_ridge_on_the_values_themselves(
    train: VisitData, test: VisitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ridge in the primal, with the intercept as the mean, for one penalty and one combination."""
    monkeypatch.setattr(baselines, "PENALTIES", np.array([3.0]))
    rows, tested = train.observed[:, 0].nonzero().squeeze(1), test.observed[:, 0].nonzero().squeeze(1)

    def values(data: VisitData, which: torch.Tensor) -> np.ndarray:
        voxels = torch.stack([data.batch(which[i : i + 1]).inputs["volume0"].flatten() for i in range(len(which))])
        return np.column_stack([data.baseline[which], voxels / voxels.shape[1] ** 0.5]).astype(np.float64)

    x, y = values(train, rows), train.target[rows].double().numpy()
    centred = x - x.mean(0)
    slope = np.linalg.solve(centred.T @ centred + 3.0 * np.eye(x.shape[1]), centred.T @ (y - y.mean()))
    expected = (values(test, tested) - x.mean(0)) @ slope + y.mean()
    np.testing.assert_allclose(kernel_ridge(train, test)[tested.numpy(), 0], expected, rtol=1e-5)


@pytest.mark.parametrize("n", [13, 61], ids=["fewer visits than features", "fewer features than visits"])
def test_one_decomposition_finds_the_penalty_and_the_slopes_of_a_grid_search(n: int) -> None:
    drawn = np.random.default_rng(7)
    x = drawn.normal(size=(n, 31))
    y = x @ drawn.normal(size=31) + 3 * drawn.normal(size=n)
    folds = KFold(baselines.FOLDS, shuffle=True, random_state=0)
    grid = {"alpha": baselines.PENALTIES}
    search = GridSearchCV(KernelRidge(), grid, scoring="neg_mean_squared_error", cv=folds).fit(x, y)
    asked = drawn.normal(size=(5, 31))
    np.testing.assert_allclose(asked @ baselines._cross_validated(x, y, np.arange(n)), search.predict(asked), rtol=1e-6)


def test_kernel_ridge_does_not_depend_on_the_units_of_a_table_s_columns(train: VisitData, test: VisitData) -> None:
    def in_other_units(data: VisitData) -> VisitData:
        rows = data.inputs["table0"]
        assert isinstance(rows, MemoryRows)
        return replace(data, inputs={**data.inputs, "table0": MemoryRows(1000 * rows.rows - 5)})

    predictions = kernel_ridge(in_other_units(train), in_other_units(test))
    np.testing.assert_allclose(predictions, kernel_ridge(train, test), rtol=1e-4)


def test_kernel_ridge_takes_a_column_that_never_varies(train: VisitData, test: VisitData) -> None:
    constant = {**train.inputs, "table0": MemoryRows(torch.ones_like(train.inputs["table0"].rows))}  # type: ignore[union-attr]
    predictions = kernel_ridge(replace(train, inputs=constant), test)
    assert (np.isfinite(predictions) == np.isfinite(kernel_ridge(train, test))).all()


def test_kernel_ridge_learns_what_is_in_the_images(train: VisitData, test: VisitData) -> None:
    target = test.target.double().numpy()
    last = kernel_ridge(train, test)[:, 0]
    assert error_sums(last, target).r2 > 0.5
    assert error_sums(training_mean(train, test)[:, 0], target).r2 < 0.1


def test_combination_with_too_few_training_visits_falls_back_to_the_training_mean(test: VisitData) -> None:
    observed = torch.tensor([[True, i < 9, i < 10] for i in range(31)])
    few = small_visits(CONFIG, 31, observed=observed)
    everything = small_visits(CONFIG, 7, seed=2, observed=torch.ones(7, 3, dtype=torch.bool))
    predictions, mean = kernel_ridge(few, everything), float(few.target.double().mean())
    for column, combination in enumerate(all_combinations(CONFIG.names)):
        assert np.allclose(predictions[:, column], mean) == (CONFIG.names[1] in combination)


def test_kernel_ridge_is_reproducible(train: VisitData, test: VisitData) -> None:
    assert np.array_equal(kernel_ridge(train, test), kernel_ridge(train, test), equal_nan=True)


def test_a_ridge_for_all_horizons_is_weighted_least_squares_of_changes_a_year(
    train: VisitData, test: VisitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the primal, with the change a year common to all as a column without a penalty, for one penalty."""
    monkeypatch.setattr(baselines, "PENALTIES", np.array([3.0]))
    months = (12.0, 24.0, 60.0)
    changes = train.target[:, None] * torch.tensor(months) / 24 + torch.randn(len(train), 3)
    changes[::2, 2] = float("nan")
    rows, tested = train.observed[:, 2].nonzero().squeeze(1), test.observed[:, 2].nonzero().squeeze(1)

    def values(data: VisitData, which: torch.Tensor) -> np.ndarray:
        own = data.batch(which).inputs["table0"].double().numpy()
        spread = train.batch(rows).inputs["table0"].double().numpy().std(0)
        return np.column_stack([data.baseline[which].double(), own / spread / own.shape[1] ** 0.5])

    x, design, y = values(train, rows), [], []
    for place, row in enumerate(rows.tolist()):
        for j, month in enumerate(months):
            if not changes[row, j].isnan():
                design.append(month / 12 * np.append(1.0, x[place]))
                y.append(float(changes[row, j]))
    matrix, penalty = np.array(design), 3.0 * np.diag([0.0, *np.ones(x.shape[1])])
    slope = np.linalg.solve(matrix.T @ matrix + penalty, matrix.T @ np.array(y))
    expected = 2.0 * (np.column_stack([np.ones(len(tested)), values(test, tested)]) @ slope)
    found = horizon_ridge(told(train, months, changes), told(test, months))
    column = all_combinations(CONFIG.names).index((CONFIG.names[2],))
    np.testing.assert_allclose(found[tested.numpy(), column], expected, rtol=1e-5)


def test_a_ridge_that_is_told_no_horizon_says_what_to_set(train: VisitData, test: VisitData) -> None:
    with pytest.raises(ConfigurationError, match=r"give its method model: \{horizons_months"):
        horizon_ridge(train, test)
