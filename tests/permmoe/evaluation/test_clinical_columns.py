"""The clinical references read what visits carry beside a model's modalities, with all its gaps."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from permmoe.data.dataset import VisitData
from permmoe.data.visits import Visit, VisitTable
from permmoe.evaluation.baselines import BASELINES, clinical_boosting, clinical_null, clinical_ridge
from permmoe.evaluation.clinical_columns import measured_columns
from tests.support.model_batches import small_config
from tests.support.small_visits import small_visits

CONFIG = small_config(n_volumes=1, n_tables=0)
WITH_ALL_COLUMNS = ("clinical_ridge", "clinical_boosting")


def carrying(data: VisitData, *, adas: list[float | None], **columns: float) -> VisitData:
    def of(visit: Visit, points: float | None) -> Visit:
        return replace(visit, covariates={**columns, **({} if points is None else {"ADAS13": points})})

    return replace(data, visits=VisitTable(tuple(map(of, data.visits, adas))))


@pytest.fixture(scope="module")
def train() -> VisitData:
    """The change follows ADAS13, in a step, in visits that have it; every fifth has not."""
    data = small_visits(CONFIG, 211, observed=torch.ones(211, 1, dtype=torch.bool))
    points: list[float | None] = [None if i % 5 == 4 else float(i % 31) for i in range(211)]
    steps = torch.tensor([0.5 if p is None else 2.0 if p > 15 else -1.0 for p in points])
    return replace(carrying(data, adas=points), target=steps)


@pytest.fixture(scope="module")
def test() -> VisitData:
    data = small_visits(CONFIG, 62, seed=1, observed=torch.ones(62, 1, dtype=torch.bool))
    return carrying(data, adas=[float(i % 31) for i in range(62)])


def error(name: str, train: VisitData, test: VisitData) -> float:
    truth = np.array([2.0 if visit.covariates["ADAS13"] > 15 else -1.0 for visit in test.visits])
    return float(np.sqrt(((BASELINES[name](train, test)[:, 0] - truth) ** 2).mean()))


def test_each_rung_sees_more_than_the_one_below(train: VisitData, test: VisitData) -> None:
    errors = [error(n, train, test) for n in ("clinical_null", "clinical_ridge", "clinical_boosting")]
    assert errors[2] < 0.5 * errors[1] < 0.5 * errors[0]


def test_the_clinical_null_sees_no_column(train: VisitData, test: VisitData) -> None:
    bare = carrying(train, adas=[None] * 211), carrying(test, adas=[None] * 62)
    assert np.array_equal(clinical_null(train, test), clinical_null(*bare))


@pytest.mark.parametrize("name", WITH_ALL_COLUMNS)
def test_visits_without_any_column_are_predicted_by_score_and_age(train: VisitData, test: VisitData, name: str) -> None:
    bare = carrying(train, adas=[None] * 211), carrying(test, adas=[None] * 62)
    assert np.isfinite(BASELINES[name](*bare)).all()
    assert measured_columns(bare[0]) == ("age_years",)
    np.testing.assert_allclose(clinical_ridge(*bare), clinical_null(*bare))


@pytest.mark.parametrize("name", WITH_ALL_COLUMNS)
def test_a_column_that_no_training_visit_has_or_that_never_varies_changes_nothing(
    train: VisitData, test: VisitData, name: str
) -> None:
    adas = [visit.covariates.get("ADAS13") for visit in train.visits]
    constant = carrying(train, adas=adas, FAQ=3.0)
    asked = carrying(test, adas=[float(i % 31) for i in range(62)], FAQ=7.0, MMSE=28.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predicted = BASELINES[name](constant, carrying(asked, adas=[float(i % 31) for i in range(62)], FAQ=3.0))
        np.testing.assert_allclose(predicted, BASELINES[name](train, test))
        assert np.isfinite(BASELINES[name](train, asked)).all()


def test_a_missing_number_is_a_value_of_its_own_to_the_trees_and_the_mean_to_the_ridge(
    train: VisitData, test: VisitData
) -> None:
    same_age = replace(test, visits=VisitTable(tuple(replace(v, age_years=70.0) for v in test.visits)))
    unknown = carrying(same_age, adas=[None] * 62)
    known = [visit.covariates["ADAS13"] for visit in train.visits if visit.covariates]
    typical = carrying(same_age, adas=[float(np.mean(known))] * 62)
    np.testing.assert_allclose(clinical_ridge(train, unknown), clinical_ridge(train, typical))
    assert abs(clinical_boosting(train, unknown) - 0.5).max() < 0.2


def test_a_handful_of_training_visits_gives_the_trees_their_mean(train: VisitData, test: VisitData) -> None:
    few = train.subset(torch.arange(0, 33))
    np.testing.assert_allclose(clinical_boosting(few, test), float(few.target.mean()), rtol=1e-5)
