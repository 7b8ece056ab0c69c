"""A model at a hospital that did not train it: what a few of the hospital's own patients change.

Scanners and patients there are others, so that predictions are off by about the same for everybody, rise too steeply or
too little, and scatter more. Each of these is estimated from the hospital's patients and drawn towards what the model
has, as far as so few patients leave it uncertain (empirical Bayes: the prior is how hospitals of development cohorts
differed, docs/intervals.md). With no patients all is as the model has it, with many as the patients have it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from permmoe.calibration.intervals import LEVELS
from permmoe.calibration.score_counts import rank
from permmoe.config import HospitalLine
from permmoe.errors import DataError

LEAST_PATIENTS = 10
"""Fewer say less about their hospital than what hospitals have in common."""
SHORTEST = 0.1
"""No interval is shorter than a tenth of the model's own, however well a few patients were predicted."""
NORMAL_REACH = 1.2816
"""Standard deviations to either side that hold 80% of a normal distribution."""

Matrix = Float[np.ndarray, "visit combination"]
Rows = Float[np.ndarray, " row"]


@dataclass(frozen=True)
class Prior:
    """How much a model's own offset, slope and interval length count for beside a hospital's patients."""

    offset_worth: float = 3.0
    """In patients who have no offset."""
    slope_deviation: float = 0.5
    """SD of a hospital's slope about 1, the model's; above zero."""
    scale_worth: float = 20.0
    """In patients whom the model's own intervals fit."""


CHOSEN = Prior()


@dataclass(frozen=True)
class AtHospital:
    """What is made of a model's predictions and intervals at a hospital."""

    line: HospitalLine
    widening: float
    """By which intervals are longer than the model's own."""


def at_hospital(
    predictions: Matrix, target: Float[np.ndarray, " visit"], reach: Matrix, prior: Prior = CHOSEN
) -> AtHospital:
    """What visits of different patients, none of whom trained the model, say of their hospital.

    `predictions`, points, NaN where a visit lacks the combination; `reach`: how far the model's own intervals of 80%
    reach, likewise. Every patient counts once, whatever combinations it has; one without an outcome (NaN) not at all.
    Raises DataError for fewer than LEAST_PATIENTS, and where all have the same outcome.
    """
    used = ~np.isnan(predictions) & np.isfinite(reach) & ~np.isnan(target)[:, None]
    has_any = used.any(1)
    n = int(has_any.sum())
    _require_enough(n, target[has_any])
    patient, _ = np.nonzero(used)
    weight = 1.0 / used.sum(1)[patient]
    x, y, reach_of = predictions[used], target[patient], reach[used]
    deviation = float((weight * reach_of).sum()) / n / NORMAL_REACH
    # Errors on patients whom the line was fitted to are too small: each patient is left out once.
    error = np.empty(len(x))
    for one in np.flatnonzero(has_any):
        own = patient == one
        others = _line(x[~own], y[~own], weight[~own], deviation, prior)
        error[own] = np.abs(y[own] - others.intercept - others.slope * x[own])
    ratio = max(_quantile(error / reach_of, weight, n), SHORTEST)
    return AtHospital(_line(x, y, weight, deviation, prior), float(ratio ** (n / (n + prior.scale_worth))))


def _require_enough(n: int, outcomes: Float[np.ndarray, " patient"]) -> None:
    if n < LEAST_PATIENTS:
        raise DataError(
            f"{n} visits with an outcome are too few to calibrate with; {LEAST_PATIENTS} tell what differs at a "
            "hospital: add visits, or leave the model as it is"
        )
    if len(np.unique(outcomes)) == 1:
        raise DataError(
            f"all {n} visits have the same outcome, {outcomes[0]:g}; look at the column of the outcome in the manifest"
        )


def _line(x: Rows, y: Rows, weight: Rows, deviation: float, prior: Prior) -> HospitalLine:
    """Of outcomes `y` on predictions `x`: about the line of the model, intercept 0 and slope 1, whose errors have this
    standard deviation, points. Weights add up to the number of patients."""
    patients = weight.sum()
    centre = (weight * x).sum() / patients
    spread = (weight * (x - centre) ** 2).sum()
    offset = (weight * (y - x)).sum() / (patients + prior.offset_worth)
    steeper = (weight * (x - centre) * (y - x)).sum() / (spread + (deviation / prior.slope_deviation) ** 2)
    slope = max(1.0 + steeper, 0.0)
    return HospitalLine(intercept=float(centre + offset - slope * centre), slope=float(slope))


def _quantile(scores: Rows, weight: Rows, n: int) -> float:
    """The score below which a new patient's stays with chance 80%: split conformal, over n patients."""
    order = np.argsort(scores, kind="stable")
    share = weight[order].cumsum() / n
    place = int(np.searchsorted(share, rank(n, LEVELS[0]) / n - 1e-9))
    return float(scores[order][min(place, len(scores) - 1)])
