"""What a model has to beat: the training mean, what is known without an image, kernel ridge and boosted trees.

Each baseline takes training and test visits and returns predictions in points as [visit, combination], NaN where a
visit lacks the combination, so that every method is evaluated by the same code. Nothing is fitted outside the training
visits. Unimodal deep models need no code of their own: they are PerMMoE with a single modality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from permmoe.config import AGE
from permmoe.data.dataset import VisitData
from permmoe.errors import ConfigurationError
from permmoe.evaluation import clinical_columns
from permmoe.evaluation.boosting import boosting
from permmoe.evaluation.clinical_columns import PENALTIES
from permmoe.modality import all_combinations

Array = np.ndarray
FOLDS = 5


def training_mean(train: VisitData, test: VisitData) -> Float[Array, "visit combination"]:
    """The training visits' mean change, the same for every test visit."""
    return _for_all_combinations(test, np.full(len(test), float(train.target.double().mean())))


def clinical_null(train: VisitData, test: VisitData) -> Float[Array, "visit combination"]:
    """Ridge on baseline CDR-SB and age, and nothing else. A missing age takes the training mean."""
    known = [name for name in clinical_columns.measured_columns(train) if name == AGE]
    return _for_all_combinations(test, clinical_columns.ridge(train, test, known))


def clinical_ridge(train: VisitData, test: VisitData) -> Float[Array, "visit combination"]:
    """Ridge on baseline CDR-SB, age and every clinical column that the visits carry."""
    columns = clinical_columns.measured_columns(train)
    return _for_all_combinations(test, clinical_columns.ridge(train, test, columns))


def clinical_boosting(train: VisitData, test: VisitData) -> Float[Array, "visit combination"]:
    """Gradient-boosted trees on the same."""
    columns = clinical_columns.measured_columns(train)
    return _for_all_combinations(test, clinical_columns.boosting(train, test, columns))


def kernel_ridge(train: VisitData, test: VisitData) -> Float[Array, "visit combination"]:
    """Linear kernel ridge on pooled voxels, standardised columns and baseline CDR-SB, one model for each combination.

    Each is trained on the visits that have the combination; the penalty comes from cross-validation among them. With
    fewer training visits than twice the folds, the combination falls back to the training mean.
    """
    combinations = all_combinations(train.names)
    predictions = np.full((len(test), len(combinations)), np.nan)
    fallback = float(train.target.double().mean())
    for column, combination in enumerate(combinations):
        fit_rows, test_rows = _rows_with(train, combination), _rows_with(test, combination)
        if not len(test_rows):
            continue
        if len(fit_rows) < 2 * FOLDS:
            predictions[test_rows, column] = fallback
            continue
        blocks = _pooled(train, fit_rows, combination)
        deviations = [1.0, *(_deviations(block) for block in blocks[1:])]  # baseline CDR-SB stays in points
        x, y = _joined(blocks, deviations), train.target[fit_rows].double().numpy()
        centre = x.mean(0)
        slope = _cross_validated(x - centre, y - y.mean(), np.arange(len(y)))
        x_test = _joined(_pooled(test, test_rows, combination), deviations)
        predictions[test_rows, column] = (x_test - centre) @ slope + y.mean()
    return predictions


def horizon_ridge(train: VisitData, test: VisitData) -> Float[Array, "visit combination"]:
    """`kernel_ridge` for all horizons: a change a year, linear in the same features, times the years of the horizon.

    Each combination is trained on the change at every horizon at which a visit with it has one, an outcome a row; a
    visit's rows are in one fold. Raises ConfigurationError for visits that were loaded for a model that is told none.
    """
    if train.horizons is None or test.horizons is None:
        raise ConfigurationError("horizon_ridge is told the horizon: give its method model: {horizons_months: [...]}")
    combinations = all_combinations(train.names)
    predictions = np.full((len(test), len(combinations)), np.nan)
    known, changes = train.horizons.known.numpy(), train.horizons.changes.double().numpy()
    all_years, own_years = (months.double().numpy() / 12 for months in (train.horizons.months, test.horizons.own))
    fallback = float(changes[known].sum() / (known * all_years).sum())
    for column, combination in enumerate(combinations):
        fit_rows, test_rows = _rows_with(train, combination), _rows_with(test, combination)
        if not len(test_rows):
            continue
        if len(fit_rows) < 2 * FOLDS:
            predictions[test_rows, column] = fallback * own_years[test_rows]
            continue
        blocks = _pooled(train, fit_rows, combination)
        deviations = [1.0, *(_deviations(block) for block in blocks[1:])]
        patients, horizons = np.nonzero(known[fit_rows])
        years, y = all_years[horizons], changes[fit_rows][patients, horizons]
        x = _joined(blocks, deviations)[patients]
        # Without these means the rest of either is orthogonal to the years: the change a year common to all needs no
        # penalty, as the intercept of a single horizon needs none.
        centre, rate = (years**2 @ x) / (years**2).sum(), (years @ y) / (years**2).sum()
        slope = _cross_validated(years[:, None] * (x - centre), y - years * rate, patients)
        x_test = _joined(_pooled(test, test_rows, combination), deviations)
        predictions[test_rows, column] = own_years[test_rows] * (rate + (x_test - centre) @ slope)
    return predictions


def _cross_validated(
    x: Float[Array, "row feature"], y: Float[Array, " row"], patients: Int[Array, " row"]
) -> Float[Array, " feature"]:
    """The slopes of the penalty with the least squared error over the folds, the smallest of equally good ones. All
    rows of a patient, counted from 0, are in one fold."""
    from sklearn.model_selection import KFold

    errors = np.zeros(len(PENALTIES))
    for _, held_out_patients in KFold(FOLDS, shuffle=True, random_state=0).split(np.arange(patients.max() + 1)):
        held_out = np.isin(patients, held_out_patients)
        fitted = ~held_out
        residuals = x[held_out] @ _slopes(x[fitted], y[fitted]) - y[held_out, None]
        errors += (residuals**2).mean(0)
    return _slopes(x, y)[:, errors.argmin()]


def _slopes(x: Float[Array, "visit feature"], y: Float[Array, " visit"]) -> Float[Array, "feature penalty"]:
    """Ridge of every penalty from one decomposition, of x xᵀ or of xᵀ x, whichever is smaller."""
    if x.shape[0] <= x.shape[1]:
        spectrum, q = np.linalg.eigh(x @ x.T)
        slopes: Array = x.T @ (q @ ((q.T @ y)[:, None] / (spectrum[:, None] + PENALTIES)))
        return slopes
    spectrum, q = np.linalg.eigh(x.T @ x)
    slopes = q @ ((q.T @ (x.T @ y))[:, None] / (spectrum[:, None] + PENALTIES))
    return slopes


Baseline = Callable[[VisitData, VisitData], Float[Array, "visit combination"]]
BASELINES: Mapping[str, Baseline] = {
    "training_mean": training_mean,
    "clinical_null": clinical_null,
    "clinical_ridge": clinical_ridge,
    "clinical_boosting": clinical_boosting,
    "kernel_ridge": kernel_ridge,
    "horizon_ridge": horizon_ridge,
    "boosting": boosting,
}
"""The baselines by the names that a study uses."""


def _for_all_combinations(data: VisitData, prediction: Float[Array, " visit"]) -> Float[Array, "visit combination"]:
    columns = []
    for combination in all_combinations(data.names):
        column = np.full(len(data), np.nan)
        rows = _rows_with(data, combination)
        column[rows] = prediction[rows]
        columns.append(column)
    return np.column_stack(columns)


def _rows_with(data: VisitData, combination: tuple[str, ...]) -> Array:
    wanted = [data.names.index(name) for name in combination]
    return np.flatnonzero(data.observed[:, wanted].all(1).numpy())


def _pooled(data: VisitData, rows: Array, combination: tuple[str, ...]) -> list[Array]:
    """Baseline CDR-SB, then each modality's values: a volume's cells, or a table's columns, whose rows are flat."""
    batch = data.batch(torch.from_numpy(rows), None)
    blocks = [batch.baseline[:, None], *(batch.inputs[name] for name in combination)]
    return [block.double().numpy() for block in blocks]


def _deviations(block: Float[Array, "visit ..."]) -> Float[Array, " column"] | float:
    """The divisors of a modality's values: the SD of each column of a table, or 1 if it is constant; 1 for voxels."""
    if block.ndim > 2:
        return 1.0
    spread = block.std(0)
    return np.where(spread > 0, spread, 1.0)


def _joined(blocks: Sequence[Array], deviations: Sequence[Array | float]) -> Float[Array, "visit feature"]:
    """Features side by side, each block over √(its width), so that a modality of more cells does not count for more."""
    scaled = [(block / by).reshape(len(block), -1) for block, by in zip(blocks, deviations, strict=True)]
    return np.concatenate([block / np.sqrt(block.shape[1]) for block in scaled], axis=1)
