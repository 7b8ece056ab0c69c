"""Intervals of many visits at once: what coverage is judged by."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from permmoe.calibration.calibration import change_bounds, severity_ends, severity_group
from permmoe.calibration.intervals import quantiles
from permmoe.calibration.score_counts import ScoreCounts
from permmoe.config import ModelConfig
from permmoe.modality import all_combinations

Matrix = Float[np.ndarray, "visit combination"]


def interval_ends(
    counts: ScoreCounts,
    model: ModelConfig,
    predictions: Matrix,
    scales: Matrix,
    baseline: Float[np.ndarray, " visit"],
    level: float,
) -> tuple[Matrix, Matrix]:
    """The ends of every visit's interval with each combination, as `permmoe predict` gives it, points.

    NaN where a visit lacks the combination and where the calibration visits are too few; infinite where the scale has
    no end. `predictions` and `scales` are those of `permmoe.calibration.calibrate.predicted`.
    """
    reach = reaches(counts, model, scales, baseline, level)
    # A scale moves with the score at the visit.
    low, high = (at - baseline[:, None] for at in change_bounds(0.0, model))
    centre = np.clip(predictions, low, high)
    return np.maximum(centre - reach, low), np.minimum(centre + reach, high)


def reaches(
    counts: ScoreCounts, model: ModelConfig, scales: Matrix, baseline: Float[np.ndarray, " visit"], level: float
) -> Matrix:
    """How far every visit's interval with each combination reaches to either side, points, before it is cut; NaN and
    infinite as in `interval_ends`."""
    ends = severity_ends(model)
    severity = severity_group(baseline, ends)
    reach = np.full(scales.shape, np.nan)
    for j, combination in enumerate(all_combinations(counts.names)):
        for group in range(1 + len(ends)):
            rows = severity == group
            for quantile in quantiles(counts, combination, group):
                if quantile.level == level:
                    reach[rows, j] = scales[rows, j] * quantile.score
    return reach
