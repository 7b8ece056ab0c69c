"""Gradient-boosted trees on the numbers of all modalities: one model for all combinations, for trees take missing ones.

A reference for permmoe.evaluation.baselines. Trees do not federate exactly: a split is chosen from all visits' numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from permmoe.data.dataset import VisitData
from permmoe.modality import all_combinations

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingRegressor

Array = np.ndarray
FOLDS = 5
TRIED = tuple(product((0.02, 0.05, 0.1), (3, 8)))
"""Learning rates and leaves a tree among which cross-validation on training visits chooses."""
FIXED = {
    "max_iter": 100,
    "min_samples_leaf": 20,
    "l2_regularization": 1.0,
    "early_stopping": False,
    "random_state": 0,
}
"""The other settings of scikit-learn's HistGradientBoostingRegressor, as of the clinical reference."""


def boosting(train: VisitData, test: VisitData) -> Float[Array, "visit combination"]:
    """Trees on baseline CDR-SB and each modality's columns, or its pooled voxels; points, NaN without the combination.

    They are trained on every training visit with every combination that it has, the others' numbers missing, all rows
    of a visit weighing as much as another visit's. With fewer training visits than twice the folds, the mean of the
    training visits is predicted.
    """
    predictions = np.full((len(test), len(all_combinations(test.names))), np.nan)
    widths = {name: rows.flatten(1).shape[1] for name, rows in _inputs(train).items()}
    asked = _Rows.of(test, widths)
    if len(train) < 2 * FOLDS:
        predictions[asked.visit, asked.combination] = float(train.target.double().mean())
        return predictions
    rows, target = _Rows.of(train, widths), train.target.double().numpy()
    rate, leaves = min(TRIED, key=lambda settings: _held_out_error(rows, target, *settings))
    if len(asked.visit):
        model = _fitted(rows, target, np.ones(len(rows.visit), dtype=bool), rate, leaves)
        predictions[asked.visit, asked.combination] = model.predict(asked.numbers)
    return predictions


class _Rows:
    """Visits with each of their combinations, a row each."""

    def __init__(
        self,
        numbers: Float[Array, "row column"],
        visit: Int[Array, " row"],
        combination: Int[Array, " row"],
    ) -> None:
        self.numbers, self.visit, self.combination = numbers, visit, combination
        self.weight = 1 / np.bincount(visit)[visit] if len(visit) else np.zeros(0)
        """The rows of a visit weigh 1 together."""

    @classmethod
    def of(cls, data: VisitData, widths: Mapping[str, int]) -> _Rows:
        numbers, modality = _numbers(data, widths)
        member = np.array([[name in c for name in data.names] for c in all_combinations(data.names)])
        has = (data.observed.numpy()[:, None] | ~member).all(2)
        visit, combination = has.nonzero()
        # The first column, baseline CDR-SB, belongs to no modality.
        is_shown = np.column_stack([np.ones(len(visit), dtype=bool), member[combination][:, modality]])
        return cls(np.where(is_shown, numbers[visit], np.nan), visit, combination)


def _inputs(data: VisitData) -> Mapping[str, Tensor]:
    """For each modality that some visit has, the rows of the visits that have it."""
    return data.batch(torch.arange(len(data))).inputs


def _numbers(data: VisitData, widths: Mapping[str, int]) -> tuple[Float[Array, "visit column"], Int[Array, " own"]]:
    """Baseline CDR-SB and so many numbers of each modality, NaN where it was not observed; and whose each column is,
    but for the first."""
    inputs = _inputs(data)
    blocks: list[Array] = [data.baseline.double().numpy()[:, None]]
    for name, width in widths.items():
        block = np.full((len(data), width), np.nan)
        if name in inputs:
            block[data.observed[:, data.names.index(name)].numpy()] = inputs[name].double().flatten(1).numpy()
        blocks.append(block)
    owner = [data.names.index(name) for name, width in widths.items() for _ in range(width)]
    return np.concatenate(blocks, axis=1), np.array(owner, dtype=int)


def _held_out_error(rows: _Rows, target: Float[Array, " visit"], rate: float, leaves: int) -> float:
    """Squared error of the visits of each fold, by a model of the others; squared points, summed over folds."""
    from sklearn.model_selection import KFold

    total = 0.0
    for fitted, _ in KFold(FOLDS, shuffle=True, random_state=0).split(target):
        is_fitted = np.isin(rows.visit, fitted)
        model = _fitted(rows, target, is_fitted, rate, leaves)
        residual = model.predict(rows.numbers[~is_fitted]) - target[rows.visit[~is_fitted]]
        total += float((rows.weight[~is_fitted] * residual**2).sum())
    return total


def _fitted(
    rows: _Rows, target: Float[Array, " visit"], chosen: Bool[Array, " row"], rate: float, leaves: int
) -> HistGradientBoostingRegressor:
    # Imported late: a simulation's workers train sites, and scikit-learn takes a second to import.
    from sklearn.ensemble import HistGradientBoostingRegressor

    numbers = rows.numbers[chosen]
    # scikit-learn cannot bin a column that no row has. A constant one is never split, so it says nothing either.
    numbers[:, np.isnan(numbers).all(0)] = 0.0
    model = HistGradientBoostingRegressor(learning_rate=rate, max_leaf_nodes=leaves, **FIXED)
    return model.fit(numbers, target[rows.visit[chosen]], sample_weight=rows.weight[chosen])
