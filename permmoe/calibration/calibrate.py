"""Calibrating a trained model on visits: its error with every combination that each visit has."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from permmoe.calibration.calibration import (
    Calibration,
    calibration_of,
    severity_ends,
    severity_group,
)
from permmoe.calibration.intervals import LEVELS
from permmoe.calibration.next_scan import added_scans
from permmoe.calibration.score_counts import ScoreCounts, count_scores, least_visits
from permmoe.data.dataset import VisitData
from permmoe.ensemble import Network
from permmoe.errors import DataError
from permmoe.evaluation.combinations import combination_outputs
from permmoe.modality import all_combinations

EXTREMES = 0.01
"""The share of visits at either end that its ranges leave out: a card does not tell its most extreme patients."""


def predicted(
    model: Network, data: VisitData
) -> tuple[Float[np.ndarray, "visit combination"], Float[np.ndarray, "visit combination"]]:
    """What is predicted for each visit from each combination, and the scale of its error: both in points, NaN where a
    modality is missing. A visit's inputs are encoded once; the scale is 1 unit where the model predicts no spread."""
    predictions, scales = np.full((2, len(data), len(all_combinations(data.names))), np.nan)
    unit = model.config.unit_points
    for visits, columns, output in combination_outputs(model, data):
        predictions[visits, columns] = output.prediction.double().cpu().numpy()
        scales[visits, columns] = unit if output.spread is None else output.spread.double().cpu().numpy()
    return predictions, scales


def score_counts(model: Network, data: VisitData) -> ScoreCounts:
    """The scores of visits, counted; those without an outcome are left out. `visit.site` says whose a visit is."""
    return _counted(model, data, *predicted(model, data))


def calibrate(model: Network, data: VisitData, *, source: str, chose_the_weights: bool = False) -> Calibration | None:
    """The calibration of a model on visits that did not train it; None where they are too few for any interval."""
    predictions, scales = predicted(model, data)
    counts = _counted(model, data, predictions, scales)
    if counts.visits[0] < least_visits(min(LEVELS)):
        return None
    known = ~np.isnan(data.target.numpy())
    return calibration_of(
        counts,
        unit_points=model.config.unit_points,
        scale="spread" if model.spread else "unit",
        severity_ends=severity_ends(model.config),
        baseline_range=_range(data.baseline.double().numpy()[known]),
        prediction_range=_range(predictions[known]),
        added=added_scans(data.names, np.abs(data.target.double().numpy()[:, None] - predictions), scales),
        source=source,
        chose_the_weights=chose_the_weights,
    )


def require_calibration(found: Calibration | None, n: int) -> Calibration:
    """The calibration. Raises DataError where `n` visits were too few for one."""
    if found is None:
        least, every = least_visits(min(LEVELS)), least_visits(max(LEVELS))
        raise DataError(
            f"{n} visits with an outcome are too few to calibrate with; {least} give intervals of {min(LEVELS):.0%}, "
            f"{every} also of {max(LEVELS):.0%}: add visits"
        )
    return found


def _counted(
    model: Network,
    data: VisitData,
    predictions: Float[np.ndarray, "visit combination"],
    scales: Float[np.ndarray, "visit combination"],
) -> ScoreCounts:
    ends = severity_ends(model.config)
    groups = severity_group(data.baseline.double().numpy(), ends)
    scores = np.abs(data.target.double().numpy()[:, None] - predictions) / scales
    return count_scores(data.names, scores, groups, 1 + len(ends), [visit.site for visit in data.visits])


def _range(values: Float[np.ndarray, ...]) -> tuple[float, float]:
    """Between the extremes, rounded outwards to half points."""
    low, high = np.nanquantile(values, (EXTREMES, 1 - EXTREMES))
    return float(np.floor(2 * low) / 2), float(np.ceil(2 * high) / 2)
