"""MMSE, ADAS-Cog 13, FAQ and RAVLT with causes and noise of their own, where `Realism.scores` asks for them.

Four things make a score: how ill the person is (noise-free CDR-SB), what memory has lost to the hippocampus and to tau
beyond that, what stays with a person (ability, which goes with education, and what is peculiar to one test), and the
noise of a visit. One factor shares most of ADAS-Cog, CDR and MMSE in trials of dementia (70-78%: Dement Geriatr Cogn
Disord 2009, 27:344); in MCI, whose range is narrow, less. FAQ is an informant's report of function and follows CDR-SB
closest; RAVLT and ADAS-Cog, tests of memory, see what CDR-SB does not, and predict who of ADNI's MCI becomes demented
(Crane et al. 2012, Brain Imaging Behav 6:502; Richard et al. 2013, BMJ Open 3:e002541). A higher FAQ and a lower MMSE
go with faster decline of CDR-SB (NACC; JAD 2021, 10.3233/JAD-210305). No correlation with the change in CDR-SB in MCI
could be read: coefficients were set by simulation to correlations of 0.25 to 0.4, and to MMSE 27.5 (1.8), ADAS-Cog 13
16.5 (6.5), FAQ 3.5 (3.5) and RAVLT 34 (9), which are assumed, too (docs/cohort.md has what comes of them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from permmoe.data.cohort.disease import Demographics, Latents, cdrsb_at, cdrsb_before
from permmoe.data.cohort.realism import ScoreNoise

MEAN_EDUCATION_YEARS, SD_EDUCATION_YEARS = 16.0, 2.7
MEMORY_MEAN = 0.85
"""Of `memory_loss` at the index visit, about."""
WELL = (0.3, -0.5)
"""How ill somebody is taken to be who is well, points, and what memory has lost against the mean of MCI."""


@dataclass(frozen=True)
class ClinicalScores:
    """A visit's scores; None where a form is missing."""

    mmse: int | None
    """Points, 0 to 30; 30 is best."""
    adas13: float | None
    """Points of error, 0 to 85, in thirds as ADNI has them."""
    faq: int | None
    """Points, 0 to 30; 0 is best."""
    ravlt: int | None
    """Words over five trials, 0 to 75."""


def memory_loss(latents: Latents, points: float) -> float:
    """What hippocampus and tau took from memory, and what a CDR-SB of `points` adds to that of the index visit."""
    declined = points - latents.severity_points
    at_first = 0.9 * latents.hippocampal_loss + 1.1 * max(latents.tau, 0.0) + 0.5 * latents.neurodegeneration
    return at_first + 0.3 * declined


def draw_scores(
    rng: np.random.Generator,
    person: Demographics,
    latents: Latents,
    months: Sequence[int],
    noise: ScoreNoise,
    earlier: Sequence[int],
    earlier_rng: np.random.Generator,
) -> tuple[list[ClinicalScores], list[ClinicalScores]]:
    """The scores at each of the visits, `months` after the index visit, where a negative number is a visit at which a
    person was well; and those `earlier` months before it, on the way to it, with noise of their own."""
    own = rng.standard_normal(5)
    educated = (person.education_years - MEAN_EDUCATION_YEARS) / SD_EDUCATION_YEARS
    ability = float(0.35 * educated + 0.94 * own[0])
    sizes = (noise.mmse_points, noise.adas13_points, noise.faq_points, noise.ravlt_words)

    def drawn(rng: np.random.Generator, states: Sequence[tuple[float, float]]) -> list[ClinicalScores]:
        visits, lost = rng.standard_normal((len(states), 4)), rng.random((len(states), 4)) < noise.missing
        return [
            _scores(severity, memory, ability, own[1:], visits[row] * sizes, lost[row])
            for row, (severity, memory) in enumerate(states)
        ]

    later = [_state(latents, cdrsb_at(latents, month)) if month >= 0 else WELL for month in months]
    return drawn(rng, later), drawn(earlier_rng, [_state(latents, cdrsb_before(latents, month)) for month in earlier])


def _state(latents: Latents, points: float) -> tuple[float, float]:
    """How ill a person with this noise-free CDR-SB is, points, and what memory has lost, against the mean of MCI."""
    return max(points, 0.0), memory_loss(latents, points) - MEMORY_MEAN


def _scores(
    severity: float, memory: float, ability: float, own: np.ndarray, chance: np.ndarray, lost: np.ndarray
) -> ClinicalScores:
    mmse = 28.8 - 0.80 * severity - 0.8 * memory + 0.8 * ability + 0.9 * own[0] + chance[0]
    adas13 = 13.0 + 2.6 * severity + 4.6 * memory - 2.2 * ability + 2.6 * own[1] + chance[1]
    faq = 2.7 * severity - 1.2 + 1.6 * memory + 2.6 * own[2] + chance[2]
    ravlt = 38.0 - 2.4 * severity - 6.0 * memory + 3.5 * ability + 4.5 * own[3] + chance[3]
    return ClinicalScores(
        mmse=None if lost[0] else round(float(np.clip(mmse, 0, 30))),
        adas13=None if lost[1] else round(round(float(np.clip(adas13, 0, 85)) * 3) / 3, 2),
        faq=None if lost[2] else round(float(np.clip(faq, 0, 30))),
        ravlt=None if lost[3] else round(float(np.clip(ravlt, 0, 75))),
    )
