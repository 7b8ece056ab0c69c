"""What is known of a visit without any image: the score, the age, and the columns that the visit carries.

Predictors for permmoe.evaluation.baselines. Each is fitted on training visits alone, with settings fixed here: nothing
was tuned on a cohort that a study reports. A column that no training visit has is not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from permmoe.config import AGE
from permmoe.data.dataset import VisitData
from permmoe.data.visits import Visit

Array = np.ndarray
PENALTIES = np.logspace(-2, 4, 13)
"""Ridge penalties tried by cross-validation on the training visits."""
BOOSTING = {
    "learning_rate": 0.05,
    "max_iter": 100,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 20,
    "l2_regularization": 1.0,
    "early_stopping": False,
    "random_state": 0,
}
"""Of scikit-learn's HistGradientBoostingRegressor: a hundred small trees. Fewer than 40 training visits cannot be split
into two leaves; their mean is predicted then."""


def ridge(train: VisitData, test: VisitData, columns: Sequence[str]) -> Float[Array, " visit"]:
    """Ridge on the score at the visit and these columns, standardised, in points. A missing number takes the mean of
    the training visits; a constant column says nothing."""
    # Imported late, here and below: a simulation's workers train sites, and scikit-learn takes a second to import.
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(SimpleImputer(), StandardScaler(), RidgeCV(PENALTIES))
    model.fit(_numbers(train, columns), train.target.double().numpy())
    return np.asarray(model.predict(_numbers(test, columns)))


def boosting(train: VisitData, test: VisitData, columns: Sequence[str]) -> Float[Array, " visit"]:
    """Gradient-boosted trees (`BOOSTING`) on the score at the visit and these columns, in points. Missing numbers stay
    missing: each split of a tree learns where they go."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(**BOOSTING)
    model.fit(_numbers(train, columns), train.target.double().numpy())
    return np.asarray(model.predict(_numbers(test, columns)))


def measured_columns(train: VisitData) -> tuple[str, ...]:
    """The age and the columns that training visits carry, each where at least one of them has it, sorted."""
    return tuple(sorted({name for visit in train.visits for name in _of_visit(visit)}))


def _numbers(data: VisitData, columns: Iterable[str]) -> Float[Array, "visit column"]:
    """The score at the visit, then the columns; NaN where one was not measured."""
    of_visits = [_of_visit(visit) for visit in data.visits]
    own = [[numbers.get(name, np.nan) for numbers in of_visits] for name in columns]
    return np.column_stack([data.baseline.double().numpy(), *own])


def _of_visit(visit: Visit) -> dict[str, float]:
    age = {} if visit.age_years is None else {AGE: visit.age_years}
    return {**age, **visit.covariates}
