"""A subject's clinical visits: on the way to the index visit, where anybody saw them then, and from it to drop-out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
from jaxtyping import Float

from permmoe.data.cohort.disease import Demographics, Latents, cdrsb_at, cdrsb_before, rate_cdrsb
from permmoe.data.cohort.randomness import Purpose, stream
from permmoe.data.cohort.scores import ClinicalScores, draw_scores
from permmoe.data.cohort.settings import CohortConfig

DAYS_PER_MONTH = 30.4375
PLANNED_MONTHS = (0, 6, 12, 24, 36, 48, 60, 72, 84)
"""Visits counted from the index visit."""
EARLIER_MONTHS = (36, 24, 12, 6)
"""Visits before the index visit, of those who were seen then; who was first seen when is drawn."""
ENROLLED_WELL_MONTHS = 12
"""How long before the index visit those were enrolled who were still well then."""
FOLLOW_UP_RATER_SD, INDEX_RATER_SD = 0.40, 0.22
"""Of a rating of CDR-SB, points: at the index visit raters are most careful."""


@dataclass(frozen=True)
class ClinicalVisit:
    """One row of the clinical tables."""

    month: int
    """Since enrolment, as in VISCODE and session labels."""
    day: date
    diagnosis: str
    """CN, MCI or Dementia; empty where nobody wrote one down."""
    cdrsb: float
    """Points; −4 or −1, ADNI's codes for missing, where the form is not there."""
    mmse: int | None
    hippocampus_mm3: int
    ventricles_mm3: int
    is_earlier: bool = False
    """Whether it lies before the index visit, on the way to it."""
    scores: ClinicalScores | None = None
    """Scores with causes of their own, `mmse` among them; None where the cohort has none."""


def months_before(config: CohortConfig, index: int) -> int:
    """How many months before the index visit a subject was first seen on the way to it; 0 for one who was not."""
    is_seen, first = stream(config.seed, Purpose.EARLIER_VISITS, index).random(2)
    return EARLIER_MONTHS[int(first * len(EARLIER_MONTHS))] if is_seen < config.earlier_share else 0


def draw_visits(
    config: CohortConfig, index: int, phase: str, latents: Latents, well_months: int, index_day: date, earlier: int
) -> tuple[ClinicalVisit, ...]:
    """Visits by month, until drop-out. One who was enrolled as cognitively normal, `well_months` before the index
    visit, has that visit; one who was first seen `earlier` months before it has those on the way.

    Every number is drawn for all planned visits first, so that a shorter follow-up only cuts the list; earlier visits
    have numbers of their own, so that all others are as without them.
    """
    rng = stream(config.seed, Purpose.VISITS, index)
    decline = max(latents.decline_points_per_year, 0.0)
    hazard = (1 + 0.45 * config.missing.by_decline * decline) / config.missing.mean_follow_up_months
    last_month = min(config.follow_up_months, rng.exponential(1 / hazard))
    ratings, *noise = rng.standard_normal((5, len(PLANNED_MONTHS)))
    jitter_days = np.round(5 + 18 * noise[0]).astype(int)
    skipped, form_lost, diagnosis_lost = rng.random((3, len(PLANNED_MONTHS)))

    index_month = well_months + earlier
    index_rating = max(0.5, rate_cdrsb(latents.severity_points, float(ratings[0]), INDEX_RATER_SD))
    measures = _measures(latents, 0, cdrsb_at(latents, 0), noise, 0)
    first = ClinicalVisit(index_month, index_day, "MCI", index_rating, *measures)
    visits = [*_earlier_visits(config, index, phase, latents, index_day, earlier), first]
    if well_months:
        enrolled = index_day - timedelta(days=round(well_months * DAYS_PER_MONTH))
        well = replace(first, month=0, day=enrolled, diagnosis="CN", cdrsb=0.0, mmse=min(measures[0] + 1, 30))
        visits.insert(0, well)
    for j, months in enumerate(PLANNED_MONTHS):
        if j == 0 or months > last_month or _is_skipped(months, skipped[j]):
            continue
        points = cdrsb_at(latents, months)
        rating = rate_cdrsb(points, float(ratings[j]), FOLLOW_UP_RATER_SD)
        if form_lost[j] < 0.015:
            rating = _lost_form(phase)
        diagnosis = "Dementia" if points > 4.0 else "CN" if points < 0.35 else "MCI"
        day = index_day + timedelta(days=round(months * DAYS_PER_MONTH) + int(jitter_days[j]))
        visits.append(
            ClinicalVisit(
                index_month + months,
                day,
                "" if diagnosis_lost[j] < 0.03 else diagnosis,
                rating,
                *_measures(latents, months, points, noise, j),
            )
        )
    return tuple(visits)


def _earlier_visits(
    config: CohortConfig, index: int, phase: str, latents: Latents, index_day: date, first: int
) -> list[ClinicalVisit]:
    """The visits from `first` months before the index visit on; none for 0. The first one took place, whatever the
    others did."""
    rng = stream(config.seed, Purpose.EARLIER_NOISE, index)
    ratings, *noise = rng.standard_normal((5, len(EARLIER_MONTHS)))
    skipped, form_lost, diagnosis_lost = rng.random((3, len(EARLIER_MONTHS)))
    visits = []
    for j, months in enumerate(EARLIER_MONTHS):
        is_first = months == first
        if months > first or (not is_first and _is_skipped(months, skipped[j])):
            continue
        points = cdrsb_before(latents, months)
        rating = rate_cdrsb(points, float(ratings[j]), FOLLOW_UP_RATER_SD)
        # Their jitter cannot reach the index visit: it is a month at most.
        late_days = int(np.clip(round(5 + 18 * noise[0][j]), -30, 30))
        visits.append(
            ClinicalVisit(
                first - months,
                index_day - timedelta(days=round(months * DAYS_PER_MONTH) - late_days),
                "" if diagnosis_lost[j] < 0.03 and not is_first else "CN" if points < 0.35 else "MCI",
                _lost_form(phase) if form_lost[j] < 0.015 else rating,
                *_measures(latents, -months, points, noise, j),
                is_earlier=True,
            )
        )
    return visits


def _is_skipped(months: int, draw: float) -> bool:
    """Whether a planned visit did not take place: seldom of the yearly ones."""
    return bool(draw < (0.04 if months % 12 == 0 else 0.25))


def _lost_form(phase: str) -> float:
    """ADNI's code for a missing form."""
    return -1.0 if phase == "ADNI1" else -4.0


def with_scores(
    config: CohortConfig,
    index: int,
    person: Demographics,
    latents: Latents,
    visits: tuple[ClinicalVisit, ...],
    index_month: int,
) -> tuple[ClinicalVisit, ...]:
    """The visits with scores that have causes of their own, where the cohort has them."""
    noise = config.realism.scores
    if noise is None:
        return visits
    # For all planned visits, so that a shorter follow-up only cuts the list.
    months = (-ENROLLED_WELL_MONTHS, *PLANNED_MONTHS)
    streams = [stream(config.seed, purpose, index) for purpose in (Purpose.CLINICAL_SCORES, Purpose.EARLIER_SCORES)]
    drawn, earlier = draw_scores(streams[0], person, latents, months, noise, EARLIER_MONTHS, streams[1])
    by_month = {(False, month): scores for month, scores in zip(months, drawn, strict=True)}
    by_month |= {(True, -month): scores for month, scores in zip(EARLIER_MONTHS, earlier, strict=True)}
    scored = [(visit, by_month[visit.is_earlier, visit.month - index_month]) for visit in visits]
    return tuple(replace(visit, scores=scores, mmse=scores.mmse) for visit, scores in scored)


def _measures(
    latents: Latents, months: int, points: float, noise: list[Float[np.ndarray, " visits"]], j: int
) -> tuple[int, int, int]:
    """MMSE, and the volumes of hippocampus and ventricles in mm³, `months` after the index visit, where noise-free
    CDR-SB is `points`."""
    atrophy = min(latents.neurodegeneration + 0.12 * max(latents.tau, 0.0) * months / 12, 2.0)
    mmse = np.clip(29.2 - 1.15 * points + 1.3 * noise[1][j], 0, 30)
    hippocampus = 7600 - 1500 * atrophy - 700 * latents.hippocampal_loss + 350 * noise[2][j]
    ventricles = 24000 * np.exp(0.65 * atrophy + 0.2 * noise[3][j])
    return round(float(mmse)), round(float(hippocampus)), round(float(ventricles))
