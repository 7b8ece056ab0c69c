"""What a model's card holds of its calibration: counts of scores, whose they are, and for whom they speak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from permmoe.calibration.intervals import AT_HOME, ELSEWHERE, RANGES_UNTOLD, PredictionInterval, interval, quantiles
from permmoe.calibration.next_scan import Added
from permmoe.calibration.score_counts import N_BINS, ScoreCounts
from permmoe.config import CDR_SB, CDRSB_CHANGE, Configuration, ModelConfig, parse_config
from permmoe.errors import DataError
from permmoe.modality import Combination, all_combinations, combination_name

CARD_KEY, EARLIER_KEY = "calibration", "earlier_calibrations"
"""Where a model's card holds its calibration, and those that a newer one took the place of, newest first."""
CDRSB_STAGES = (2.5, 4.0)
"""Upper ends of severity groups, points at the visit: up to questionable impairment, very mild dementia, and from mild
dementia on (O'Bryant et al. 2008, Archives of Neurology 65:1091)."""

Sparse = tuple[tuple[int, int], ...]
"""(bin, visits) of the bins that are not empty."""


class OwnPatients(Configuration):
    """What a hospital's own patients changed in the calibration of a model that it did not train."""

    patients: int = Field(ge=1)
    widening: float = Field(gt=0, description="by which the intervals of the model's own calibration are longer")
    # Absent from a card where there is none, so that cards of other models are as before.
    as_scanned: tuple[str, ...] = Field(
        (), exclude_if=lambda names: not names,
        description="of a model that reads harmonised images: modalities that too few of them had to be harmonised",
    )  # fmt: skip


class Calibration(Configuration):
    """How wrong a model was on calibration visits, with each combination that they have."""

    unit_points: float = Field(gt=0, description="what scores are in multiples of where `scale` is unit")
    scale: Literal["unit", "spread"] = Field(
        "unit", description="what errors were divided by: the unit, or the spread that the model predicts for a visit"
    )
    severity_ends: tuple[float, ...] = Field((), description="upper ends of all severity groups but the last, points")
    bins: int = Field(N_BINS, description="of the grid of permmoe.calibration.score_counts")
    scores: dict[str, tuple[Sparse, ...]] = Field(
        description="by combination: of everybody and of each severity group, the bins that hold a visit, with counts"
    )
    visits: tuple[int, ...] = Field(description="different visits: everybody's and each severity group's")
    sites: dict[str, tuple[int, ...]] = Field(description="hospitals by combination, and of `all`, likewise")
    baseline_range: tuple[float, float] | None = Field(
        None, description="the scores at the visit that it speaks for, points; none: not known"
    )
    prediction_range: tuple[float, float] | None = Field(
        None, description="the predicted changes that it speaks for, points; none: not known"
    )
    added: dict[str, dict[str, Added]] = Field(
        default_factory=dict, description="by combination and a further modality, what it was worth to who has both"
    )
    source: str = Field("", max_length=200, description="whose visits these are")
    own_patients: OwnPatients | None = Field(
        None, exclude_if=lambda own: own is None,
        description="whose predictions and intervals these are; none: those of the hospitals that calibrated it",
    )  # fmt: skip
    chose_the_weights: bool = Field(
        False, description="whether the weights were chosen by their error on these visits, which then is a bit small"
    )

    @model_validator(mode="after")
    def _holds_counts(self) -> Calibration:
        if self.bins != N_BINS:
            raise ValueError(
                f"the scores are on a grid of {self.bins} bins, not of {N_BINS}: calibrate the model again"
            )
        columns = len(self.visits)
        if columns not in (1, 2 + len(self.severity_ends)):
            raise ValueError("there is not one count of visits for everybody and each severity group")
        if any(len(rows) != columns for rows in (*self.scores.values(), *self.sites.values())):
            raise ValueError("combinations have other severity groups than the visits")
        if any(not 0 <= b < N_BINS or n < 1 for rows in self.scores.values() for row in rows for b, n in row):
            raise ValueError("a bin is not of the grid, or holds no visit")
        return self

    def counts(self, names: Sequence[str]) -> ScoreCounts:
        """The counts as arrays. Raises DataError for a calibration of other modalities."""
        known = {combination_name(c): row for row, c in enumerate(all_combinations(names))}
        if foreign := [name for name in (*self.scores, *self.sites) if name not in known and name != "all"]:
            raise DataError(
                f"the calibration is of a model with other modalities (it has {foreign[0]}); calibrate this one"
            )
        found = ScoreCounts.none(names, len(self.visits))
        for name, rows in self.scores.items():
            for column, row in enumerate(rows):
                for bin_of, n in row:
                    found.counts[known[name], column, bin_of] = n
        for name, numbers in self.sites.items():
            found.sites[known.get(name, len(known))] = numbers
        found.visits[:] = self.visits
        return found

    def severity(self, baseline: float) -> int:
        """The group of a score at the visit, from 0."""
        return int(severity_group(np.array([baseline]), self.severity_ends)[0])

    @property
    def caveats(self) -> tuple[str, ...]:
        """What is to be said below its intervals, whoever the patient is."""
        whose = ELSEWHERE if self.own_patients is None else AT_HOME.format(n=self.own_patients.patients)
        return (whose,) if self.baseline_range and self.prediction_range else (whose, RANGES_UNTOLD)

    def outside(self, baseline: float, change: float) -> tuple[str, ...]:
        """In words, what of a patient lies beyond the visits that this is from; none where nothing does."""
        told = (("the score at the visit", baseline, self.baseline_range),
                ("the predicted change", change, self.prediction_range))  # fmt: skip
        return tuple(
            f"{what} ({value:g} is not within {ends[0]:g} to {ends[1]:g})"
            for what, value, ends in ((w, round(v, 2), e) for w, v, e in told)
            if ends and not ends[0] <= value <= ends[1]
        )


def calibration_of(counts: ScoreCounts, **about: Any) -> Calibration:
    """The counts as a card holds them. `about`: the other fields of Calibration."""
    named = [combination_name(c) for c in all_combinations(counts.names)]
    scores = {
        name: tuple(tuple((int(b), int(row[b])) for b in np.flatnonzero(row)) for row in rows)
        for name, rows in zip(named, counts.counts, strict=True)
        if rows[0].any()
    }
    sites = {
        name: tuple(map(int, row))
        for name, row in zip([*named, "all"], counts.sites, strict=True)
        if name == "all" or name in scores
    }
    return Calibration(scores=scores, sites=sites, visits=tuple(map(int, counts.visits)), **about)


def read_calibration(card: Mapping[str, Any], source: str) -> Calibration | None:
    """The calibration of a card; None where it has none. Raises ConfigurationError for one that cannot be used."""
    values = card.get(CARD_KEY)
    return None if values is None else parse_config(values, Calibration, f"the calibration of {source}")


def recalibrated(card: Mapping[str, Any], calibration: Calibration) -> dict[str, Any]:
    """The card with another calibration; the one that it had is kept among the earlier ones."""
    earlier = [*filter(None, [card.get(CARD_KEY)]), *card.get(EARLIER_KEY, [])]
    return {**card, CARD_KEY: calibration.model_dump(mode="json"), **({EARLIER_KEY: earlier} if earlier else {})}


def severity_ends(model: ModelConfig) -> tuple[float, ...]:
    """The severity groups of the model's score; none of a score whose stages are not known here."""
    return CDRSB_STAGES if model.score == CDR_SB and model.outcome_range == CDRSB_CHANGE else ()


def severity_group(baseline: np.ndarray, ends: Sequence[float]) -> np.ndarray:
    """Each visit's group, from 0."""
    return np.searchsorted(np.array(ends, dtype=np.float64), baseline, side="left")


def change_bounds(baseline: float, model: ModelConfig) -> tuple[float, float]:
    """The changes that keep the score at the horizon on its scale; infinite where no scale is declared."""
    if model.score == CDR_SB and model.outcome_range != CDRSB_CHANGE:
        return -inf, inf  # An outcome that is no change in CDR-SB, of a study that declares no score.
    low, high = model.score.bounds
    return low - baseline, high - baseline


def intervals_of(
    calibration: Calibration,
    counts: ScoreCounts,
    model: ModelConfig,
    *,
    combination: Combination,
    baseline: float,
    change: float,
    spread: float | None,
) -> tuple[PredictionInterval, ...]:
    """A patient's intervals, narrowest first. `counts`: the calibration's; `spread`: what the model predicts, points.

    An interval without an end on a score without bounds says nothing and is left out.
    """
    scale = calibration.unit_points if calibration.scale == "unit" or spread is None else spread
    bounds = change_bounds(baseline, model)
    found = quantiles(counts, combination, calibration.severity(baseline))
    made = [interval(change, scale, quantile, bounds) for quantile in found]
    return tuple(one for one in made if np.isfinite([one.low, one.high]).all())
