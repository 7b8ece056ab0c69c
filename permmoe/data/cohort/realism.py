"""How like ADNI the cohort is: named knobs, each with its source, and the settings that are taken together.

At its defaults every knob is off, and the cohort is what it was before there were knobs, bit by bit. `realism:
adni-like` turns all of them on (`ADNI_LIKE`). Where no published figure could be read, the knob says that its value is
assumed; docs/cohort.md sets the cohort that comes of it beside what is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from permmoe.config import Configuration


@dataclass(frozen=True)
class PhaseAvailability:
    """Of a phase of ADNI: how many subjects with MCI it enrolled, and which share of them has each modality."""

    subjects: int
    t1: float
    flair: float
    amyloid: float
    tau: float


ADNI_AVAILABILITY: Mapping[str, PhaseAvailability] = {
    "ADNI1": PhaseAvailability(397, 0.99, 0.00, 0.13, 0.00),
    "ADNIGO": PhaseAvailability(128, 0.98, 0.96, 0.95, 0.00),
    "ADNI2": PhaseAvailability(344, 0.98, 0.96, 0.94, 0.12),
    "ADNI3": PhaseAvailability(244, 0.97, 0.95, 0.88, 0.78),
    "ADNI4": PhaseAvailability(225, 0.96, 0.94, 0.82, 0.74),
}
"""30% of the subjects are ADNI1's, and 30% of all have tau PET. That ADNI1 enrolled some 400 subjects with MCI
(Petersen et al. 2010, Neurology 74:201: 398), took no FLAIR and gave PiB to few, and that tau PET began late in ADNI2
and is in the protocol since ADNI3 (Weiner et al. 2017, Alzheimers Dement 13:561), is published. The shares themselves
are this project's estimates from the archive's lists of scans; no publication has them by phase and modality."""


class ScoreNoise(Configuration):
    """The noise of clinical scores from one visit to the next, which no latent state explains; standard deviations.

    What of a score stays with a person (test-wiseness, education, mood) is in permmoe.data.cohort.scores.
    """

    mmse_points: float = Field(1.0, ge=0, description="MMSE; SEM 1.0 over 2-4 months (Feeney et al. 2016, JAD 53:1107)")
    adas13_points: float = Field(3.0, ge=0, description="ADAS-Cog 13; assumed, a little under half its SD in MCI")
    faq_points: float = Field(1.8, ge=0, description="FAQ, an informant's report; assumed")
    ravlt_words: float = Field(
        6.0, ge=0,
        description="RAVLT, five trials; of word lists 0.57-0.69 of the variance stays for a year in ASPREE (JAD 2022, "
        "10.3233/JAD-215564: HVLT-R total recall)",
    )  # fmt: skip
    missing: float = Field(
        0.02, ge=0, le=1, description="share of visits at which one of these forms is missing; assumed"
    )


class Realism(Configuration):
    """What is as in ADNI; every default is off."""

    availability: Literal["assumed", "adni"] = Field(
        "assumed",
        description="subjects by phase and modalities within it: as `phases` says, or those of ADNI_AVAILABILITY",
    )
    scores: ScoreNoise | None = Field(
        None,
        description="MMSE, ADAS-Cog 13, FAQ, RAVLT with noise and causes of their own; none: MMSE alone, from CDR-SB",
    )
    lesion_effect: float = Field(
        1.0, ge=0, le=1,
        description="what white-matter lesions do to CDR-SB, against the first cohorts, where they had the largest "
        "share of all causes; what they no longer explain, nothing in an image does. In ADNI lesions predict a year's "
        "change of ADAS-Cog and MMSE, and CDR-SB is not among what they predict (Carmichael et al. 2010, Arch "
        "Neurol 67:1370)",
    )  # fmt: skip
    lesions_on_t1: float = Field(
        0.0, ge=0, le=1,
        description="signal that a lesion takes from T1, as a share of white matter's: T1 shows lesions as hypointense "
        "(Wardlaw et al. 2013, Lancet Neurol 12:822); the strength is assumed",
    )  # fmt: skip
    misregistration_mm: float = Field(
        0.0, ge=0, le=10,
        description="how far an image lies off the template, root mean square over the brain, every modality by "
        "itself; the size is assumed, of a linear registration that went well (Jenkinson et al. 2002, NeuroImage "
        "17:825). A raw cohort has none: its preparation leaves its own",
    )  # fmt: skip
    warp_mm: float = Field(
        1.0, ge=0, le=6,
        description="individual shape after registration, SD along each axis, detail of 28 mm. Linear registration "
        "leaves much (Klein et al. 2009, NeuroImage 46:786, compare 14 ways to take it out); the size is assumed",
    )  # fmt: skip
    fine_warp_mm: float = Field(
        0.0, ge=0, le=3, description="the same with detail of 20 mm, about a gyrus; the size is assumed"
    )
    pattern_effect: float = Field(
        0.0, ge=0, le=0.35,
        description="where in the brain a pathology lies, front or back, is a latent of its own in each modality, with "
        "this SD of effect on decline before its threshold; a whole-brain average does not see it. Tau has four "
        "patterns with different courses (Vogel et al. 2021, Nat Med 27:871), atrophy that spares the hippocampus goes "
        "with the fastest decline (Ossenkoppele et al. 2020, Alzheimers Dement 16:335), temporal and occipital "
        "lesions with functional decline in ADNI (Bangen et al. 2020, Neurobiol Aging 86:134); the size is assumed",
    )  # fmt: skip


PLAIN = Realism()
"""Everything off."""

ADNI_LIKE = Realism(
    availability="adni",
    scores=ScoreNoise(),
    lesion_effect=0.35,
    lesions_on_t1=0.15,
    misregistration_mm=1.5,
    warp_mm=2.5,
    fine_warp_mm=1.0,
    pattern_effect=0.3,
)
"""Everything on: `realism: adni-like`. This is the one place where the realistic settings stand."""

REALISMS: Mapping[str, Realism] = {"plain": PLAIN, "adni-like": ADNI_LIKE}
"""By the name that a configuration may give in place of knobs."""
