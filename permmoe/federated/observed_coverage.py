"""How often the intervals of a model's card held at hospitals, from the counts of errors that these send."""

from __future__ import annotations

from collections.abc import Sequence
from math import isinf

import numpy as np
from jaxtyping import Int64
from pydantic import Field

from permmoe.calibration.calibration import Calibration
from permmoe.calibration.intervals import quantiles
from permmoe.calibration.score_counts import EDGES, ScoreCounts
from permmoe.config import Configuration, ModelConfig
from permmoe.errors import DataError
from permmoe.federated.summed_scores import SummedScores
from permmoe.modality import all_combinations, combination_name

Coverages = dict[str, tuple["Coverage", ...]]
"""By combination, a coverage for each level that its card has an interval of."""


class Coverage(Configuration):
    """The share of judged visits whose outcome lay inside the interval that the model's card gives."""

    level: float = Field(description="nominal coverage")
    least: float = Field(ge=0, le=1, description="the share is this or more")
    most: float = Field(
        ge=0, le=1, description="and no more than this; the same in a secure sum, whose counts nobody merges"
    )
    basis: str = Field(description="what the interval is conditional on: combination, or pooled")


def require_comparable(calibration: Calibration, model: ModelConfig) -> Calibration:
    """The calibration. Raises DataError where it is not of this model's errors as hospitals count them."""
    calibration.counts(model.names)
    scale = "unit" if model.spread == "none" else "spread"
    if calibration.scale != scale or (scale == "unit" and calibration.unit_points != model.unit_points):
        raise DataError(
            "the calibration of the model's card is in another unit than hospitals count errors in; calibrate the "
            "model again (permmoe calibrate), or leave 'calibrate' out of the study's file"
        )
    return calibration


def observed_coverage(found: SummedScores, calibration: Calibration, names: Sequence[str]) -> Coverages:
    """The coverage of the card's intervals for everybody with a combination; none of combinations without counts.

    `permmoe predict` may give a patient the interval of a severity group; a finished model is judged by combination
    alone. A prediction beyond the score's scale is counted as it is, though it is shown at the scale's end, nearer to
    the outcome: that can only make a share too small.
    """
    everybody = _everybody(calibration.counts(names))
    shares: Coverages = {}
    for combination in all_combinations(names):
        name = combination_name(combination)
        if name in found.counts:
            shares[name] = tuple(
                Coverage(
                    level=quantile.level,
                    least=_share(found.counts[name], quantile.score),
                    most=_share(found.lowest[name], quantile.score),
                    basis=quantile.basis,
                )
                for quantile in quantiles(everybody, combination, 0)
            )
    return shares


def _everybody(counts: ScoreCounts) -> ScoreCounts:
    """Without severity groups."""
    return ScoreCounts(counts.names, counts.counts[:, :1], counts.visits[:1], counts.sites[:, :1])


def _share(counts: Int64[np.ndarray, " bin"], score: float) -> float:
    """The share of visits in bins that end at the score or below. An infinite one is the whole scale."""
    inside = len(counts) if isinf(score) else int(np.searchsorted(EDGES, score, side="right"))
    return float(counts[:inside].sum() / counts.sum())
