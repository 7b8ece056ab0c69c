"""Who is in the cohort: subject i follows from (configuration, i) alone, whatever the count, grid or workers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

import numpy as np

from permmoe.data.cohort.disease import (
    Demographics,
    Latents,
    cdrsb_at,
    draw_demographics,
    draw_latents,
    rate_cdrsb,
)
from permmoe.data.cohort.randomness import Purpose, stream
from permmoe.data.cohort.settings import (
    LARGEST_COHORT,
    MODALITIES,
    CohortConfig,
    ImageModality,
    PhaseShares,
    SiteConfig,
)

DAYS_PER_MONTH = 30.4375
PLANNED_MONTHS = (0, 6, 12, 24, 36, 48, 60, 72, 84)
"""Visits counted from the index visit."""


@dataclass(frozen=True)
class Phase:
    """A phase of ADNI: its name in the tables, the RIDs it gave out, when it enrolled and what it scanned."""

    name: str
    rids: range
    first_enrolment: date
    scanned: tuple[float, float, float, float]
    """Share of its subjects for whom T1, FLAIR, amyloid and tau PET were part of the protocol."""


PHASES = (
    Phase("ADNI1", range(2, 2000), date(2006, 1, 1), (1, 0, 0.13, 0)),
    Phase("ADNIGO", range(2000, 3000), date(2010, 1, 1), (1, 1, 1, 0)),
    Phase("ADNI2", range(3000, 6000), date(2012, 1, 1), (1, 1, 1, 0.12)),
    Phase("ADNI3", range(6000, 10000), date(2018, 1, 1), (1, 1, 1, 1)),
    Phase("ADNI4", range(10000, 20000), date(2023, 1, 1), (1, 1, 1, 1)),
)
"""In the order of `PhaseShares`. RID ranges, and FLAIR and tau by phase, as ADNI publishes them; the rest assumed."""


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
    mmse: int
    hippocampus_mm3: int
    ventricles_mm3: int


@dataclass(frozen=True)
class Subject:
    """Everything about one invented person but the voxels."""

    index: int
    rid: int
    ptid: str
    phase: Phase
    site: SiteConfig
    person: Demographics
    latents: Latents
    index_month: int
    """Months from enrolment to the first visit with MCI, at which the images were taken."""
    observed: tuple[ImageModality, ...]
    """Modalities that the index visit has, in order; never empty."""
    visits: tuple[ClinicalVisit, ...]

    @property
    def index_visit(self) -> ClinicalVisit:
        """The visit at which MCI was first diagnosed and the images were taken."""
        return next(visit for visit in self.visits if visit.month == self.index_month)

    @property
    def bids_id(self) -> str:
        """As Clinica's adni-to-bids writes it: 011_S_0002 becomes sub-ADNI011S0002."""
        return "sub-ADNI" + self.ptid.replace("_", "")


def draw_subjects(config: CohortConfig) -> tuple[Subject, ...]:
    """All subjects, without rendering a voxel."""
    return tuple(draw_subject(config, index) for index in range(config.subjects))


def draw_subject(config: CohortConfig, index: int) -> Subject:
    """Subject `index` of the cohort."""
    phase_index, rid = _enrolment(config.seed, config.phases)[index]
    phase = PHASES[phase_index]
    rng = stream(config.seed, Purpose.SUBJECT, index)
    site = _pick_site(rng, config.site_table)
    person = draw_demographics(rng)
    latents = draw_latents(rng, person, case_mix(config.seed, site.code), config.amyloid_tau_correlation)
    index_month = 12 if rng.random() < 0.08 else 0
    enrolled = phase.first_enrolment + timedelta(days=int(rng.integers(0, 900)))
    return Subject(
        index=index,
        rid=rid,
        ptid=f"{site.code}_S_{rid:04d}",
        phase=phase,
        site=site,
        person=person,
        latents=latents,
        index_month=index_month,
        observed=MODALITIES if config.all_modalities else _observed(config, index, phase, site, person, latents),
        visits=_visits(config, index, phase, latents, index_month, enrolled),
    )


def case_mix(seed: int, site_code: str) -> float:
    """How sick the subjects are whom a site sees, in units of `draw_latents`."""
    return float(stream(seed, Purpose.SITE, site_code).normal(0, 0.25))


@lru_cache(maxsize=8)
def _enrolment(seed: int, shares: PhaseShares) -> tuple[tuple[int, int], ...]:
    """(phase, RID) of every subject of the largest possible cohort, so that neither depends on the count."""
    weights = np.array([shares.adni1, shares.adnigo, shares.adni2, shares.adni3, shares.adni4])
    draws = stream(seed, Purpose.PHASES).random(LARGEST_COHORT)
    phases = np.searchsorted(np.cumsum(weights / weights.sum())[:-1], draws, side="right")
    rng = stream(seed, Purpose.IDENTIFIERS)
    rids = [iter(rng.permutation(np.array(phase.rids)).tolist()) for phase in PHASES]
    return tuple((int(phase), next(rids[phase])) for phase in phases)


def _pick_site(rng: np.random.Generator, sites: tuple[SiteConfig, ...]) -> SiteConfig:
    edges = np.cumsum([site.size for site in sites])
    return sites[int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))]


def _observed(
    config: CohortConfig, index: int, phase: Phase, site: SiteConfig, person: Demographics, latents: Latents
) -> tuple[ImageModality, ...]:
    """Structure first (what the site collects, what the phase scanned), then severity, then chance."""
    rng = stream(config.seed, Purpose.MISSING, index)
    missing = config.missing
    is_frail, is_old = latents.severity_points > 2.5, person.age_years > 80
    by_severity = (0.0, 0.02 * is_frail, 0.05 * is_frail + 0.04 * is_old, 0.08 * is_frail + 0.08 * is_old)
    present: list[ImageModality] = []
    for j, name in enumerate(MODALITIES):
        by_protocol, by_condition, by_chance = rng.random(3)
        if (
            name in site.modalities
            and (not missing.by_phase or by_protocol < phase.scanned[j])
            and by_condition >= missing.by_severity * by_severity[j]
            and by_chance >= getattr(missing, name)
        ):
            present.append(name)
    return tuple(present) or (site.modalities[0],)


def _visits(
    config: CohortConfig, index: int, phase: Phase, latents: Latents, index_month: int, enrolled: date
) -> tuple[ClinicalVisit, ...]:
    """Visits by month: an enrolment as cognitively normal where the index visit came later, then until drop-out.

    Every number is drawn for all planned visits first, so that a shorter follow-up only cuts the list.
    """
    rng = stream(config.seed, Purpose.VISITS, index)
    decline = max(latents.decline_points_per_year, 0.0)
    hazard = (1 + 0.45 * config.missing.by_decline * decline) / config.missing.mean_follow_up_months
    stays_months = rng.exponential(1 / hazard)
    n = len(PLANNED_MONTHS)
    ratings, mmse_noise, volume_noise, jitter_days = (rng.standard_normal(n + 1) for _ in range(4))
    skipped, form_lost, diagnosis_lost = (rng.random(n) for _ in range(3))

    def visit(month: int, since_index: int, j: int, diagnosis: str, points: float, cdrsb: float) -> ClinicalVisit:
        atrophy = min(latents.neurodegeneration + 0.12 * max(latents.tau, 0) * since_index / 12, 2.0)
        return ClinicalVisit(
            month=month,
            day=enrolled + timedelta(days=round(month * DAYS_PER_MONTH + (0 if j == 0 else 5 + 18 * jitter_days[j]))),
            diagnosis=diagnosis,
            cdrsb=cdrsb,
            mmse=int(np.clip(round(29.2 - 1.15 * points + 1.3 * mmse_noise[j]), 0, 30)),
            hippocampus_mm3=round(7600 - 1500 * atrophy - 700 * latents.hippocampal_loss + 350 * volume_noise[j]),
            ventricles_mm3=round(24000 * float(np.exp(0.65 * atrophy + 0.2 * volume_noise[-1 - j]))),
        )

    index_rating = max(0.5, rate_cdrsb(latents.severity_points, ratings[0], 0.22))
    visits = [visit(index_month, 0, 0, "MCI", latents.severity_points, index_rating)]
    if index_month:
        visits.insert(0, visit(0, -index_month, n, "CN", 0.2, 0.5 if ratings[n] > 1 else 0.0))
    for j, months in enumerate(PLANNED_MONTHS):
        is_yearly = months % 12 == 0
        if months == 0 or not months <= min(config.follow_up_months, stays_months):
            continue
        if skipped[j] < (0.04 if is_yearly else 0.25):
            continue
        points = cdrsb_at(latents, months)
        rating = rate_cdrsb(points, ratings[j], 0.36)
        if form_lost[j] < 0.015:
            rating = -1.0 if phase.name == "ADNI1" else -4.0
        diagnosis = "Dementia" if points > 4.0 else "CN" if points < 0.35 else "MCI"
        visits.append(
            visit(index_month + months, months, j, "" if diagnosis_lost[j] < 0.03 else diagnosis, points, rating)
        )
    return tuple(visits)
