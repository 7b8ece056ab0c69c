"""A/A on models that are trained: how often each verdict of a report tells a method from its own second training.

Each study draws a cohort with three modalities of four columns and a skewed outcome, splits it by seed, and trains a
ridge regression on random features twice, with other features and resampled visits: what differs between the two is the
training's luck alone. Three regimes train on ever fewer visits, so that there are trends.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from permmoe.evaluation.figures import Array, Figure, contrast, difference_figure, paired_rmse, ratio_change
from permmoe.evaluation.intervals import LEVEL, judged_p_value
from permmoe_simulation.studies.verdicts import corrected

MODALITIES, COLUMNS, HIDDEN = 3, 4, 24
COMBINATIONS = [c for size in range(1, MODALITIES + 1) for c in combinations(range(MODALITIES), size)]
SHARES_TRAINED = (1.0, 0.6, 0.35)
"""Of the training visits, by regime: the axis of the trends."""


def trained_errors(
    rng: np.random.Generator, subjects: int, seeds: int
) -> Float[Array, "training regime combination seed subject"]:
    """Squared test errors of two trainings on one cohort; NaN where a seed does not test a subject."""
    inputs = rng.normal(size=(subjects, MODALITIES * COLUMNS))
    signal = inputs @ rng.normal(size=MODALITIES * COLUMNS) / 4
    outcome = signal + np.exp(0.5 * rng.normal(size=subjects)) * rng.choice((1.0, -1.0), subjects, p=(0.8, 0.2))
    errors = np.full((2, len(SHARES_TRAINED), len(COMBINATIONS), seeds, subjects), np.nan)
    for seed in range(seeds):
        order = rng.permutation(subjects)
        tested, trained = order[: subjects // 4], order[subjects // 4 :]
        for regime, share in enumerate(SHARES_TRAINED):
            visits = trained[: int(share * len(trained))]
            for training in range(2):
                predictions = _trained(rng, inputs[visits], outcome[visits], inputs[tested])
                errors[training, regime, :, seed, tested] = ((predictions - outcome[tested]) ** 2).T
    return errors


def _trained(
    rng: np.random.Generator, inputs: Array, outcome: Array, tested: Array
) -> Float[Array, "combination visit"]:
    """Predictions from each combination, the other modalities at their mean."""
    weights, bias = rng.normal(size=(inputs.shape[1], HIDDEN)) / 2, rng.normal(size=HIDDEN)
    drawn = rng.integers(len(inputs), size=len(inputs))

    def features(x: Array) -> Array:
        return np.column_stack([np.maximum(x @ weights + bias, 0), x, np.ones(len(x))])

    design = features(inputs[drawn])
    solution = np.linalg.solve(design.T @ design + 3 * np.eye(design.shape[1]), design.T @ outcome[drawn])
    rows = []
    for combination in COMBINATIONS:
        is_given = np.repeat([m in combination for m in range(MODALITIES)], COLUMNS)
        rows.append(features(tested * is_given) @ solution)
    return np.stack(rows)


def verdict_figures(errors: Float[Array, "training regime combination seed subject"]) -> dict[str, list[Figure]]:
    """The figures that a report of this pair judges, by kind of verdict; drift and gaps are differences, too."""
    first, second = errors
    averages = [difference_figure(list(a), list(b)) for a, b in zip(first, second, strict=True)]
    singles = [
        difference_figure([a], [b]) for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    ]  # fmt: skip
    at = np.log10(np.array(SHARES_TRAINED))
    slope = (at - at.mean()) / ((at - at.mean()) ** 2).sum()
    percentages = [
        ratio_change(*paired_rmse(a, b)) for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    ]  # fmt: skip
    return {"better, averaged over combinations": averages, "better, with one combination": singles,
            "trend": [contrast(averages, slope.tolist())], "carried over": percentages}  # fmt: skip


def false_verdicts(pairs: int, seed: int, subjects: int = 320, seeds: int = 5) -> pd.DataFrame:
    """Rows: kind of verdict, pairs of trainings, the share of figures below 5% each by itself, and of pairs with any.

    "Any" counts pairs in which a figure of the kind stays below 5% after Holm's correction.
    """
    rng = np.random.default_rng(seed)
    alone: dict[str, list[float]] = {}
    holm: dict[str, list[bool]] = {}
    for _ in range(pairs):
        for kind, figures in verdict_figures(trained_errors(rng, subjects, seeds)).items():
            p_values = [judged_p_value(figure) for figure in figures]
            alone.setdefault(kind, []).append(float(np.mean([p < LEVEL for p in p_values])))
            holm.setdefault(kind, []).append(bool((corrected(p_values) < LEVEL).any()))
    return pd.DataFrame(
        [(kind, pairs, float(np.mean(alone[kind])), float(np.mean(holm[kind]))) for kind in alone],
        columns=["verdict", "pairs", "called", "any_after_holm"],
    )
