"""`evaluation.json`: how a finished model did at hospitals, by combination of modalities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pydantic import Field

from permmoe.config import Configuration
from permmoe.evaluation.combinations import ErrorSums
from permmoe.evaluation.further_sums import FurtherSums, bias_from_sums, rmse_from_sums
from permmoe.evaluation.intervals import Interval
from permmoe.federated.observed_coverage import Coverage, Coverages
from permmoe.federated.plan import RoundPlan
from permmoe_server.studies.numbers_file import read_numbers, write_numbers

EVALUATION_FILE = "evaluation.json"
Ends = tuple[float, float] | None
"""The ends of a 95% interval; none where there are too few visits."""


class Judged(Configuration):
    """A model's errors with one combination, in points of its score."""

    n: int = Field(description="visits of all hospitals")
    rmse: float
    rmse_interval: Ends
    mae: float
    bias: float = Field(description="mean of prediction − outcome: above zero where the model predicts too much")
    bias_interval: Ends
    coverage: tuple[Coverage, ...] = Field(
        (), description="how often the intervals of the model's card held, by level; none where it was not asked"
    )


class EvaluationNumbers(Configuration):
    """The figures of an evaluation. Each is over `min_cell_count` visits or more at each hospital."""

    plan: RoundPlan
    finished: datetime
    sites: tuple[str, ...] = Field(description="hospitals that judged the model")
    left_out: tuple[str, ...] = Field((), description="hospitals that were connected and did not, with the reason")
    seconds: float = Field(description="from the first message to the last reply")
    combinations: dict[str, Judged]
    has_calibration: bool | None = Field(
        None, description="whether the model's card has a calibration; none: written before it was noted"
    )


def judged(
    sums: Mapping[str, ErrorSums], further: Mapping[str, FurtherSums], coverages: Coverages | None = None
) -> dict[str, Judged]:
    """The figures by combination, fewest modalities first."""
    named = sorted(sums, key=lambda name: (name.count("+"), name))
    return {name: _judged(sums[name], further[name], (coverages or {}).get(name, ())) for name in named}


def _judged(sums: ErrorSums, further: FurtherSums, coverage: tuple[Coverage, ...]) -> Judged:
    rmse, bias = rmse_from_sums(sums, further), bias_from_sums(sums, further)
    return Judged(
        n=sums.n,
        rmse=rmse.estimate,
        rmse_interval=_ends(rmse),
        mae=sums.mae,
        bias=bias.estimate,
        bias_interval=_ends(bias),
        coverage=coverage,
    )


def _ends(interval: Interval) -> Ends:
    return None if math.isnan(interval.lower) else (interval.lower, interval.upper)


def write_evaluation_file(folder: Path, numbers: EvaluationNumbers) -> None:
    """Write the figures into an evaluation's folder."""
    write_numbers(folder / EVALUATION_FILE, numbers)


def read_evaluation_file(folder: Path) -> EvaluationNumbers:
    """The figures in a folder. Raises ConfigurationError where there are none, DataError where they were damaged."""
    return read_numbers(folder / EVALUATION_FILE, EvaluationNumbers, "evaluation", "figures")
