"""What the planted design says of a claim before anything is trained.

What a method can reach with patients without number follows from what it can know: the training mean sees nothing,
ridge a straight line, and a model that is trained any function of the numbers; one that is a hospital's own knows its
hospital, too. Where the method can reach less error than its reference, a difference is planted, and a study that
does not find it has too few patients, or a model that does not learn it. Where both can reach the same, which of them
comes nearer to it with few patients is not known; but nothing is below the error of the outcome's mean where there is
nothing to know, and a method does not differ from itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import nan
from typing import Literal

import numpy as np

from permmoe.modality import Combination, all_combinations, combination_name
from permmoe_simulation.studies.planted import PlantedConfig, attainable_rmse
from permmoe_simulation.studies.study import MEAN, Claim, Method

Expected = Literal["lower", "higher", "not lower", "no difference", "not known"]
NOTHING_LESS = 1e-9
"""Points; below it two attainable errors are one."""


@dataclass(frozen=True)
class Truth:
    """What is true of a method's RMSE beside its reference's, and why."""

    expected: Expected
    why: str
    difference: float = nan
    """Of the attainable errors, points; NaN where they are not known in numbers."""


class Reach(IntEnum):
    """What a method can know of a patient; each includes those before."""

    NOTHING = 0
    LINE = 1
    FUNCTION = 2
    FUNCTION_AND_SITE = 3


WRITTEN_HERE = ("federated", "centralised", "local", "unimodal")
"""Kinds of methods that are trained, of which is said below what they can know."""
REFERENCES = {"training_mean": Reach.NOTHING, "kernel_ridge": Reach.LINE}
TRAINED_TWICE = Truth("no difference", "both are one method, trained with other seeds", 0.0)


def reach_of(method: Method) -> Reach | None:
    """What a method can know; None where it is not written here."""
    if method.kind == "reference":
        return REFERENCES.get(method.baseline)
    if method.kind not in WRITTEN_HERE:
        return None
    is_own = method.kind == "local" or method.personal_epochs > 0
    return Reach.FUNCTION_AND_SITE if is_own else Reach.FUNCTION


def truth_of(claim: Claim, method: Method, reference: Method, planted: PlantedConfig, names: Sequence[str]) -> Truth:
    """What the design says of a claim. `names` are the modalities whose combinations both predict."""
    own, other = reach_of(method), reach_of(reference)
    if own is None or other is None:
        return Truth("not known", "what one of the two can know is not written down")
    if own < other:
        mirrored = _truth(other, own, planted, _combinations(claim, names))
        swapped: dict[Expected, Expected] = {"lower": "higher", "not lower": "not known"}
        return Truth(swapped.get(mirrored.expected, mirrored.expected), mirrored.why, -mirrored.difference)
    return _truth(own, other, planted, _combinations(claim, names))


def _combinations(claim: Claim, names: Sequence[str]) -> list[Combination]:
    every = all_combinations(tuple(names))
    return [one for one in every if claim.combination in (MEAN, combination_name(one))]


def _truth(own: Reach, other: Reach, planted: PlantedConfig, combinations: Sequence[Combination]) -> Truth:
    """For a method that can know what its reference knows, or more."""
    seen = [sum(planted.explained.get(name, 0.0) for name in combination) for combination in combinations]
    if planted.scanner_shift or planted.outcome_shift:
        return _truth_where_a_site_is_shifted(own, other, planted, max(seen, default=0.0) > 0)
    gained = [_attainable(own, planted, c) - _attainable(other, planted, c) for c in combinations]
    difference = float(np.mean(gained)) if gained else nan
    if difference < -NOTHING_LESS:
        return Truth("lower", "it can know what its reference cannot", difference)
    return _alike(other, difference)


def _truth_where_a_site_is_shifted(own: Reach, other: Reach, planted: PlantedConfig, is_told: bool) -> Truth:
    """The errors that can be reached have no formula, but which of the two is the smaller often follows."""
    if own == Reach.FUNCTION_AND_SITE and other != own and (planted.outcome_shift or is_told):
        return Truth("lower", "it knows which hospital is shifted, and its reference can only guess it")
    if other == Reach.NOTHING and own > other:
        numbers_tell_the_site = bool(planted.scanner_shift and planted.outcome_shift)
        if is_told or numbers_tell_the_site:
            return Truth("lower", "it can know what its reference cannot")
    if own == Reach.FUNCTION and other == Reach.LINE and is_told and planted.routed:
        return Truth("lower", "it can know what its reference cannot")
    return _alike(other, nan)


def _alike(other: Reach, difference: float) -> Truth:
    if other == Reach.NOTHING:
        return Truth("not lower", "there is nothing to know, and nothing is below the error of the mean", difference)
    return Truth(
        "not known", "both can reach the same error; which is nearer to it with few patients is not known", difference
    )


def _attainable(reach: Reach, planted: PlantedConfig, combination: Combination) -> float:
    if reach == Reach.NOTHING:
        return planted.outcome_sd
    return attainable_rmse(planted, combination, linear=reach == Reach.LINE)
