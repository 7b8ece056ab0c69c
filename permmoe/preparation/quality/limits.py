"""What each metric is called, and where it tells of a failure whatever other images are like.

Limits are meant to let no head pass that lies more than 10 mm off: permmoe.preparation.quality.roc counts what passes,
given heads whose true place is known. A T1 that is registered well lies within 1 mm of its second registration.

Two pairs belong to each: beyond the outer one an image has failed, beyond the inner one a person should look at it.

Where amyloid or tau fills the cortex, PET no longer shows the tissues, and a second registration by tissues errs by
centimetres: a rule that believed it would leave out patients by their disease. What tells that PET follows its T1 is
how much the two whole heads tell of each other: about half as much where they lie a centimetre apart. How much that is
differs between scanners, so that only the least is a failure by itself.

A FLAIR or PET that no T1 led has limits of its own: its registration is the harder one, and what two registrations do
not agree on, or what has a close second, is left out, since a T1 of the visit settles it. Tau in a healthy brain and in
the scalp are much alike, so that a brain's outline may be found at the head's: there tissues show no contrast.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from permmoe.data.reasons import Reason
from permmoe.preparation.scan import PET

MRI = ("t1", "flair")
EVERY = (*MRI, *PET)
LED = ("flair", *PET)
"""What a T1 leads."""
MODALITY_NAMES = {"t1": "T1", "flair": "FLAIR", "amyloid": "Amyloid PET", "tau": "Tau PET"}
"""As people write them."""
OUTLINE = "compare the brain with the template's outline"
NEEDS_T1 = "add a T1 of the same visit, which leads the way"
BESIDE_T1 = "compare it with the T1 on the sheet"
SIDES = "left and right may be exchanged in one of the two"


@dataclass(frozen=True)
class Limits:
    """Where a metric tells of a failure by itself."""

    modalities: tuple[str, ...]
    usual: tuple[float, float]
    """Beyond it a person should look."""
    possible: tuple[float, float]
    """Beyond it the image has failed."""
    reason: Reason
    advice: str
    """What to look for, or to do; a clause that follows the figures."""
    without_t1: bool = False
    """Whether they hold only for images that no T1 led."""


@dataclass(frozen=True)
class Measure:
    """One field of ImageMetrics, as people read it."""

    field: str
    title: str
    unit: str
    digits: int
    suspicious: Literal["low", "high", "both", "none"]
    """Which side of other images' values makes an image an outlier."""
    least_spread: float
    """What robust standard deviation a set is taken to have at least: differences below it mean nothing."""
    limits: tuple[Limits, ...] = ()
    """Those for images without a T1 first: the first that hold are taken."""
    silent_on: tuple[str, ...] = ()
    """Modalities of which it tells nothing once a T1 led them: neither limits nor other images are held against it."""

    def shown(self, value: float) -> str:
        """A value with its unit."""
        return f"{value:.{self.digits}f}{' ' if self.unit else ''}{self.unit}"

    def limits_for(self, modality: str, *, has_t1: bool = True) -> Limits | None:
        """The limits that hold for a modality; None where there are none. Unknown modalities are held to T1's.

        `has_t1`: whether a T1 led the image, or it is one.
        """
        if has_t1 and modality in self.silent_on:
            return None
        known = modality if modality in EVERY else "t1"
        holding = (limits for limits in self.limits if not (limits.without_t1 and has_t1))
        return next((limits for limits in holding if known in limits.modalities), None)


MEASURES: tuple[Measure, ...] = (
    Measure(
        "filled", "share of the mask with values", "", 2, "low", 0.01,
        (Limits(EVERY, (0.95, inf), (0.5, inf), Reason.NO_BRAIN_SEEN, "the field of view may end inside the brain"),),
    ),
    Measure(
        "brain_contrast", "contrast of brain tissue", "", 2, "low", 0.05,
        (
            Limits(("tau",), (0.2, inf), (0.12, inf), Reason.UNSURE_WITHOUT_T1, NEEDS_T1, without_t1=True),
            Limits(MRI, (0.2, inf), (0.06, inf), Reason.NO_BRAIN_SEEN, "look whether it shows a whole brain"),
            Limits(PET, (0.12, inf), (0.04, inf), Reason.NO_BRAIN_SEEN, "look whether it shows a whole brain"),
        ),
        silent_on=PET,
    ),
    Measure(
        "disagreement_mm", "distance from where a second registration puts it", "mm", 1, "high", 0.7,
        (
            Limits(LED, (0.0, 3.5), (0.0, 5.0), Reason.UNSURE_WITHOUT_T1, NEEDS_T1, without_t1=True),
            Limits(("t1",), (0.0, 3.5), (0.0, 8.0), Reason.BAD_REGISTRATION, OUTLINE),
            Limits(("flair",), (0.0, 6.0), (0.0, 9.0), Reason.BAD_REGISTRATION, OUTLINE),
        ),
        silent_on=PET,
    ),
    Measure(
        "own_t1_disagreement_mm", "distance from where a registration to the own T1 puts it", "mm", 1, "high", 0.7,
        (Limits(("flair",), (0.0, 4.5), (0.0, 7.5), Reason.BAD_REGISTRATION, BESIDE_T1),),
        silent_on=PET,
    ),
    Measure(
        "mask_overlap", "overlap of the mask and the template's brain", "", 3, "low", 0.01,
        (Limits(EVERY, (0.9, inf), (0.8, inf), Reason.BAD_MASK, "look whether the mask follows the brain"),),
    ),
    Measure(
        "brain_covered", "share of the template's brain in the mask", "", 3, "low", 0.01,
        (Limits(EVERY, (0.88, inf), (0.75, inf), Reason.BAD_MASK, "look whether a part of the brain is missing"),),
    ),
    Measure(
        "mask_distance_mm", "distance of the mask's surface from the template's, 95th percentile", "mm", 1, "high", 1.0,
        (Limits(EVERY, (0.0, 10.0), (0.0, 25.0), Reason.BAD_MASK, "look for neck, eyes or skull in the mask"),),
    ),
    Measure(
        "mask_volume_ml", "volume of the mask", "ml", 0, "both", 60.0,
        (Limits(EVERY, (900.0, 2000.0), (600.0, 2600.0), Reason.BAD_MASK, "heads hold 1000 to 1900 ml"),),
    ),
    Measure(
        "smallest_scale", "least scaling to the template", "", 2, "both", 0.03,
        (Limits(EVERY, (0.85, 1.4), (0.65, 1.7), Reason.BAD_REGISTRATION, "the brain was shrunk or stretched"),),
    ),
    Measure(
        "largest_scale", "largest scaling to the template", "", 2, "both", 0.03,
        (Limits(EVERY, (0.85, 1.4), (0.65, 1.7), Reason.BAD_REGISTRATION, "the brain was shrunk or stretched"),),
    ),
    Measure(
        "stretch", "largest scaling over the least", "", 2, "high", 0.03,
        (Limits(EVERY, (0.0, 1.3), (0.0, 1.6), Reason.BAD_REGISTRATION, "the brain was stretched along one axis"),),
    ),
    Measure(
        "rotation_degrees", "turn to the template", "degrees", 0, "high", 5.0,
        (Limits(EVERY, (0.0, 45.0), (0.0, inf), Reason.BAD_REGISTRATION, "heads seldom lie so: compare the axes"),),
    ),
    Measure(
        "is_mirrored", "registration mirrors the brain", "", 0, "none", 1.0,
        (Limits(EVERY, (0.0, 0.0), (0.0, 0.0), Reason.MIRRORED, "it must not exchange left and right"),),
    ),
    Measure(
        "mirrored_gain", "information on the mirrored T1 beyond that on the own", "", 3, "high", 0.002,
        (
            Limits(MRI, (-inf, 0.0), (-inf, 0.004), Reason.MIRRORED, SIDES),
            Limits(PET, (-inf, 0.002), (-inf, inf), Reason.MIRRORED, SIDES),
        ),
    ),
    Measure(
        "white_over_grey", "white matter over grey matter", "", 2, "both", 0.03,
        (
            Limits(("t1",), (1.05, 2.0), (0.98, 4.0), Reason.OTHER_MODALITY, "in a T1 white matter is brighter"),
            Limits(("flair",), (0.6, 1.1), (0.4, 1.25), Reason.OTHER_MODALITY, "in a FLAIR both are about as bright"),
            Limits(PET, (0.3, 2.5), (0.1, 5.0), Reason.OTHER_MODALITY, "compare the tracer with what the image shows"),
        ),
    ),
    Measure(
        "fluid_over_white", "fluid over white matter", "", 2, "high", 0.03,
        (
            Limits(MRI, (-inf, 0.85), (-inf, 1.1), Reason.OTHER_MODALITY, "fluid is dark, but for T2"),
            Limits(PET, (-inf, 1.1), (-inf, 1.6), Reason.OTHER_MODALITY, "ventricles take up little of any tracer"),
        ),
    ),
    Measure("correlation", "correlation with the template", "", 3, "low", 0.03),
    Measure("mutual_information", "mutual information with the template", "", 3, "low", 0.01),
    Measure("own_t1_information", "mutual information with the own T1", "", 3, "low", 0.01),
    Measure("template_fit", "share that the template explains", "", 3, "low", 0.005),
    Measure("structure", "share of the contrast that tissues explain", "", 2, "low", 0.03),
    Measure("symmetry", "correlation of left and right", "", 2, "low", 0.05),
    Measure(
        "noise", "noise in white matter", "", 3, "high", 0.01,
        (Limits(MRI, (0.0, 0.12), (0.0, inf), Reason.NO_BRAIN_SEEN, "grainy: small structures will be lost"),),
    ),
    Measure(
        "agreement", "agreement that the registration reached", "", 3, "low", 0.02,
        (
            # Without a T1 it is the agreement with a template, of which no limit is known.
            Limits(LED, (-inf, inf), (-inf, inf), Reason.UNSURE_WITHOUT_T1, NEEDS_T1, without_t1=True),
            Limits(("flair",), (0.5, inf), (0.25, inf), Reason.BAD_REGISTRATION, BESIDE_T1),
            Limits(("amyloid",), (0.45, inf), (0.2, inf), Reason.BAD_REGISTRATION, BESIDE_T1),
            Limits(("tau",), (0.33, inf), (0.2, inf), Reason.BAD_REGISTRATION, BESIDE_T1),
        ),
    ),
    Measure(
        "lead", "lead over the next best registration", "", 3, "none", 0.02,
        (Limits(LED, (0.3, inf), (0.15, inf), Reason.UNSURE_WITHOUT_T1, NEEDS_T1, without_t1=True),),
    ),
    Measure(
        "follows_t1", "registered by way of the T1", "", 0, "none", 1.0,
        (Limits(LED, (1.0, 1.0), (0.0, 1.0), Reason.UNSURE_WITHOUT_T1, NEEDS_T1),),
    ),
    Measure(
        "reference_voxels", "voxels of the reference region", "", 0, "low", 20.0,
        (Limits(PET, (100.0, inf), (20.0, inf), Reason.WRONG_UPTAKE, "the scan may end above the reference region"),),
    ),
    Measure(
        "reference_variation", "variation within the reference region", "", 2, "high", 0.03,
        (Limits(PET, (0.0, 0.4), (0.0, 1.0), Reason.WRONG_UPTAKE, "the region may reach beyond its tissue"),),
    ),
    Measure(
        "reference_uptake", "uptake of the reference region", "", 2, "none", 0.0,
        (Limits(PET, (1e-6, inf), (1e-6, inf), Reason.WRONG_UPTAKE, "a region without uptake divides by nothing"),),
    ),
    Measure(
        "cortical_suvr", "uptake ratio of the cortex", "", 2, "both", 0.1,
        (Limits(PET, (0.5, 3.5), (0.2, 6.0), Reason.WRONG_UPTAKE, "look whether region and tracer belong together"),),
    ),
    Measure(
        "motion_mm", "largest motion between frames", "mm", 1, "high", 0.5,
        (Limits(PET, (0.0, 5.0), (0.0, 20.0), Reason.MOVED, "look for doubled or blurred edges"),),
    ),
)  # fmt: skip
"""In the order in which findings of one image are listed: what explains the others first."""
