"""A subject's hidden disease state, and the course of CDR-SB that follows from it.

Amyloid and tau follow the amyloid cascade in outline only: a bimodal amyloid load, tau with a set correlation to it,
neurodegeneration driven by tau. Two further causes of decline are each seen by one modality alone: hippocampal loss
without tau (as in LATE) by T1, vascular lesions by FLAIR. So every modality can add something to the others.
Coefficients were set by simulation to the published figures for MCI: baseline CDR-SB 1.5 (SD 1.0); change at
24 months 0.8-1.0 (SD 1.6-1.9), 25-30% of it zero and 15-20% negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from permmoe.data.cohort.realism import PLAIN, Realism

AMYLOID_MEAN, AMYLOID_SD = 0.450, 0.440
"""Mean and SD of `Latents.amyloid` over MCI subjects as drawn here; tau is built on the standardised load."""
TAU_MEAN, TAU_SD = 0.34, 0.28
MEAN_AGE_YEARS, SD_AGE_YEARS = 72.4, 7.7
LESIONS_ON_DECLINE, LESIONS_ON_SEVERITY = 0.95, 0.10
"""What a standard deviation of lesions does, at `Realism.lesion_effect` 1."""
LESION_VARIANCE = 0.42**2 + 0.9**2
LOAD_RMS = {"t1": 0.50, "amyloid": 0.63, "tau": 0.44}
"""Root mean square of neurodegeneration, amyloid and tau, so that effects of where they lie have one size."""


@dataclass(frozen=True)
class Demographics:
    """What is known at enrolment."""

    age_years: float
    sex: str
    education_years: int
    apoe4_alleles: int

    @property
    def age_z(self) -> float:
        """Age in standard deviations from the mean of MCI subjects in ADNI."""
        return (self.age_years - MEAN_AGE_YEARS) / SD_AGE_YEARS


@dataclass(frozen=True)
class Latents:
    """The hidden state at the index visit; nothing of it is written but under `truth/`."""

    amyloid: float
    """Cortical load; about 0 where negative, 0.2 to 1.6 where positive."""
    tau: float
    """Spread; Braak stages I-II, III-IV and V-VI light up around 0.3, 0.5 and 0.7."""
    neurodegeneration: float
    """Atrophy of the temporal and parietal cortex, the hippocampus, and wider ventricles."""
    hippocampal_loss: float
    """Loss in the hippocampus that tau does not explain; seen by T1 alone."""
    vascular: float
    """White-matter lesion load, in standard deviations; seen by FLAIR alone."""
    severity_points: float
    """Noise-free CDR-SB at the index visit."""
    decline_points_per_year: float
    """Noise-free slope of CDR-SB at the index visit."""


@dataclass(frozen=True)
class Patterns:
    """Where a modality's pathology lies: standard deviations towards the back of the brain, 0 as in the average.

    No part of how much there is: a whole-brain average does not tell it.
    """

    t1: float = 0.0
    flair: float = 0.0
    amyloid: float = 0.0
    tau: float = 0.0


EVENLY = Patterns()


def draw_patterns(rng: np.random.Generator) -> Patterns:
    """Four independent patterns."""
    t1, flair, amyloid, tau = np.clip(rng.standard_normal(4), -2.5, 2.5).tolist()
    return Patterns(t1, flair, amyloid, tau)


def draw_demographics(rng: np.random.Generator) -> Demographics:
    """Distributions of the MCI subjects of ADNI."""
    return Demographics(
        age_years=round(float(np.clip(rng.normal(MEAN_AGE_YEARS, SD_AGE_YEARS), 55, 91)), 1),
        sex="Male" if rng.random() < 0.565 else "Female",
        education_years=int(np.clip(round(rng.normal(16, 2.7)), 6, 20)),
        apoe4_alleles=int(np.searchsorted((0.51, 0.896), rng.random())),
    )


def draw_latents(
    rng: np.random.Generator,
    person: Demographics,
    case_mix: float,
    amyloid_tau_correlation: float,
    realism: Realism = PLAIN,
    patterns: Patterns = EVENLY,
) -> Latents:
    """Draw a hidden state. `case_mix` (SD about 0.25) shifts a whole site towards the sicker.

    Tau is r·z(amyloid) + √(1 − r²)·(independent, right-skewed), so that r is its correlation with amyloid whatever
    shape the two have. What lesions explain less (`Realism.lesion_effect`), and what patterns explain instead, comes
    from the chance that no image shows, so that the change in CDR-SB spreads as before.
    """
    age = person.age_z
    risk = 1 / (1 + np.exp(-(-0.45 + 1.15 * person.apoe4_alleles + 0.25 * age + 0.8 * case_mix)))
    is_positive = rng.random() < risk
    positive_load, negative_load = rng.normal(0.78, 0.30), rng.normal(0.02, 0.09)
    amyloid = np.clip(positive_load, 0.22, 1.6) if is_positive else np.clip(negative_load, -0.2, 0.22)

    own_tau = (rng.gamma(2.5) - 2.5) / 2.5**0.5
    r = amyloid_tau_correlation
    tau = TAU_MEAN + TAU_SD * (r * (amyloid - AMYLOID_MEAN) / AMYLOID_SD + (1 - r**2) ** 0.5 * own_tau)

    has_hippocampal_loss = rng.random() < 0.5
    hippocampal_loss = abs(rng.normal(0, 0.60)) * has_hippocampal_loss
    neurodegeneration = max(0.0, 0.10 + 0.50 * tau + 0.11 * age + 0.6 * hippocampal_loss + rng.normal(0, 0.12))
    vascular = 0.42 * age + rng.normal(0, 0.9)

    lesions_on_severity = LESIONS_ON_SEVERITY * realism.lesion_effect
    severity = (
        max(0.35, 0.28 + 0.50 * tau + 0.50 * neurodegeneration + lesions_on_severity * vascular + 0.15 * case_mix)
        + rng.gamma(0.72) * 1.10
    )
    drive = (
        -2.62
        + 1.45 * amyloid
        + 1.90 * tau
        + 0.70 * neurodegeneration
        + 2.00 * hippocampal_loss
        + LESIONS_ON_DECLINE * realism.lesion_effect * vascular
        + 0.50 * amyloid * tau
        + 0.22 * (severity - 1.5)
        + rng.normal(0, _chance(realism))
        + _pull(patterns, realism, neurodegeneration, float(amyloid), tau)
    )
    decline = min(0.456 * float(np.logaddexp(0, 1.3 * drive)) - 0.06, 3.2)
    return Latents(
        float(amyloid), float(tau), float(neurodegeneration), float(hippocampal_loss), float(vascular),
        float(severity), decline,
    )  # fmt: skip


def _chance(realism: Realism) -> float:
    """SD of what drives decline and shows in no image."""
    released = LESIONS_ON_DECLINE**2 * (1 - realism.lesion_effect**2) * LESION_VARIANCE
    return sqrt(0.64 + released - 4 * realism.pattern_effect**2)


def _pull(patterns: Patterns, realism: Realism, neurodegeneration: float, amyloid: float, tau: float) -> float:
    """What the places of the pathologies do to decline: each as much as there is of it."""
    loads = {"t1": neurodegeneration, "amyloid": amyloid, "tau": tau}
    of_loads: float = sum(getattr(patterns, name) * max(load, 0.0) / LOAD_RMS[name] for name, load in loads.items())
    return float(realism.pattern_effect * (patterns.flair + of_loads))


def cdrsb_at(latents: Latents, months: int) -> float:
    """Noise-free CDR-SB, points, `months` after the index visit: linear, then mildly accelerating."""
    years = months / 12
    acceleration = min(1 + 0.10 * max(latents.decline_points_per_year, 0.0) * years, 2.2)
    return latents.severity_points + latents.decline_points_per_year * years * acceleration


def cdrsb_before(latents: Latents, months: int) -> float:
    """Noise-free CDR-SB, points, `months` before the index visit: the way to it, with its slope there and slower the
    longer before, down to 0."""
    years = months / 12
    slowing = 1 + 0.10 * max(latents.decline_points_per_year, 0.0) * years
    return max(latents.severity_points - latents.decline_points_per_year * years / slowing, 0.0)


def rate_cdrsb(points: float, noise: float, rater_sd: float) -> float:
    """A clinician's rating of a noise-free CDR-SB: noisier where sicker, in half points from 0 to 18."""
    spread = rater_sd * (0.6 + 0.25 * max(points, 0.0) ** 0.5)
    return float(np.clip(round((points + spread * noise) * 2) / 2, 0, 18))
