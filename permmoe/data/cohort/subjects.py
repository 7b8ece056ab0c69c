"""Who is in the cohort: subject i follows from (configuration, i) alone, whatever the count, grid or workers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

import numpy as np

from permmoe.data.cohort.clinical_visits import (
    DAYS_PER_MONTH,
    ENROLLED_WELL_MONTHS,
    ClinicalVisit,
    draw_visits,
    months_before,
    with_scores,
)
from permmoe.data.cohort.disease import (
    EVENLY,
    Demographics,
    Latents,
    Patterns,
    draw_demographics,
    draw_latents,
    draw_patterns,
)
from permmoe.data.cohort.randomness import Purpose, stream
from permmoe.data.cohort.realism import ADNI_AVAILABILITY
from permmoe.data.cohort.settings import (
    LARGEST_COHORT,
    MODALITIES,
    CohortConfig,
    ImageModality,
    PhaseShares,
    SiteConfig,
)


@dataclass(frozen=True)
class Phase:
    """A phase of ADNI: its name in the tables, the RIDs it gave out, when it enrolled and what it scanned."""

    name: str
    rids: range
    first_enrolment: date
    scanned: tuple[float, float, float, float]
    """Share of its subjects for whom T1, FLAIR, amyloid and tau PET were part of the protocol."""


PHASES = (
    Phase("ADNI1", range(2, 2000), date(2006, 1, 1), (1.0, 0.0, 0.13, 0.0)),
    Phase("ADNIGO", range(2000, 3000), date(2010, 1, 1), (1.0, 1.0, 1.0, 0.0)),
    Phase("ADNI2", range(3000, 6000), date(2012, 1, 1), (1.0, 1.0, 1.0, 0.12)),
    Phase("ADNI3", range(6000, 10000), date(2018, 1, 1), (1.0, 1.0, 1.0, 1.0)),
    Phase("ADNI4", range(10000, 20000), date(2023, 1, 1), (1.0, 1.0, 1.0, 1.0)),
)
"""In the order of `PhaseShares`. RID ranges, and FLAIR and tau by phase, as ADNI publishes them; the rest assumed."""


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
    """Months from enrolment to the visit with MCI at which the images were taken."""
    observed: tuple[ImageModality, ...]
    """Modalities that the index visit has, in order; never empty."""
    visits: tuple[ClinicalVisit, ...]
    patterns: Patterns = EVENLY

    @property
    def index_visit(self) -> ClinicalVisit:
        """The visit with MCI at which the images were taken."""
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
    phase_index, rid = _enrolment(config.seed, _phase_shares(config))[index]
    phase = PHASES[phase_index]
    rng = stream(config.seed, Purpose.SUBJECT, index)
    site = _pick_site(rng, config.site_table)
    person = draw_demographics(rng)
    patterns = draw_patterns(stream(config.seed, Purpose.PATTERNS, index)) if config.realism.pattern_effect else EVENLY
    mix = case_mix(config.seed, site.code)
    latents = draw_latents(rng, person, mix, config.amyloid_tau_correlation, config.realism, patterns)
    index_month = ENROLLED_WELL_MONTHS if rng.random() < 0.08 else 0
    enrolled = phase.first_enrolment + timedelta(days=int(rng.integers(0, 900)))
    index_day = enrolled + timedelta(days=round(index_month * DAYS_PER_MONTH))
    earlier = 0 if index_month else months_before(config, index)
    visits = draw_visits(config, index, phase.name, latents, index_month, index_day, earlier)
    return Subject(
        index=index,
        rid=rid,
        ptid=f"{site.code}_S_{rid:04d}",
        phase=phase,
        site=site,
        person=person,
        latents=latents,
        index_month=index_month + earlier,
        observed=MODALITIES if config.all_modalities else _observed(config, index, phase, site, person, latents),
        visits=with_scores(config, index, person, latents, visits, index_month + earlier),
        patterns=patterns,
    )


def _phase_shares(config: CohortConfig) -> PhaseShares:
    """How many subjects each phase has against the others."""
    if config.realism.availability == "assumed":
        return config.phases
    total = sum(phase.subjects for phase in ADNI_AVAILABILITY.values())
    return PhaseShares(**{name.lower(): phase.subjects / total for name, phase in ADNI_AVAILABILITY.items()})


def _scanned(config: CohortConfig, phase: Phase) -> tuple[float, float, float, float]:
    """Share of a phase's subjects for whom each modality was part of the protocol, before chance takes some away."""
    if config.realism.availability == "assumed":
        return phase.scanned
    published, missing = ADNI_AVAILABILITY[phase.name], config.missing
    t1, flair, amyloid, tau = (
        min(getattr(published, name) / max(1 - getattr(missing, name), 1e-9), 1.0) for name in MODALITIES
    )
    return t1, flair, amyloid, tau


@lru_cache(maxsize=256)
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
    scanned = _scanned(config, phase)
    present: list[ImageModality] = []
    for j, name in enumerate(MODALITIES):
        by_protocol, by_condition, by_chance = rng.random(3)
        if (
            name in site.modalities
            and (not missing.by_phase or by_protocol < scanned[j])
            and by_condition >= missing.by_severity * by_severity[j]
            and by_chance >= getattr(missing, name)
        ):
            present.append(name)
    return tuple(present) or (site.modalities[0],)
