"""Every limit decides: a value beyond what is usual is to be looked at, one beyond what is possible is a failure.

The values lie far beyond the limits, so that a limit can be moved and cannot be lost.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from permmoe.data.reasons import Reason
from permmoe.preparation.quality.limits import EVERY, MEASURES, MRI
from permmoe.preparation.quality.rules import Finding, Verdict, judge, judge_alone
from permmoe.preparation.scan import PET
from tests.support.invented_metrics import METRICS

NONE = None
LIMITS: list[tuple[str, tuple[str, ...], float | None, float | None, Reason]] = [
    # What is measured, of which modalities, a value to look at, a value that is a failure, and why.
    ("filled", EVERY, 0.8, 0.2, Reason.NO_BRAIN_SEEN),
    ("brain_contrast", MRI, 0.1, 0.01, Reason.NO_BRAIN_SEEN),
    ("disagreement_mm", ("t1",), 6.0, 30.0, Reason.BAD_REGISTRATION),
    ("disagreement_mm", ("flair",), 8.0, 30.0, Reason.BAD_REGISTRATION),
    ("own_t1_disagreement_mm", ("flair",), 6.0, 30.0, Reason.BAD_REGISTRATION),
    ("mask_overlap", EVERY, 0.85, 0.5, Reason.BAD_MASK),
    ("brain_covered", EVERY, 0.8, 0.5, Reason.BAD_MASK),
    ("mask_distance_mm", EVERY, 15.0, 60.0, Reason.BAD_MASK),
    ("mask_volume_ml", EVERY, 2200.0, 4000.0, Reason.BAD_MASK),
    ("mask_volume_ml", EVERY, 750.0, 200.0, Reason.BAD_MASK),
    ("smallest_scale", EVERY, 0.75, 0.3, Reason.BAD_REGISTRATION),
    ("largest_scale", EVERY, 1.5, 3.0, Reason.BAD_REGISTRATION),
    ("stretch", EVERY, 1.45, 3.0, Reason.BAD_REGISTRATION),
    ("rotation_degrees", EVERY, 90.0, NONE, Reason.BAD_REGISTRATION),
    ("is_mirrored", EVERY, NONE, True, Reason.MIRRORED),
    ("mirrored_gain", MRI, 0.002, 0.5, Reason.MIRRORED),
    ("mirrored_gain", PET, 0.5, NONE, Reason.MIRRORED),
    ("white_over_grey", ("t1",), 1.0, 0.5, Reason.OTHER_MODALITY),
    ("white_over_grey", ("t1",), 3.0, 9.0, Reason.OTHER_MODALITY),
    ("white_over_grey", ("flair",), 0.5, 0.1, Reason.OTHER_MODALITY),
    ("white_over_grey", ("flair",), 1.2, 3.0, Reason.OTHER_MODALITY),
    ("white_over_grey", PET, 0.2, 0.01, Reason.OTHER_MODALITY),
    ("white_over_grey", PET, 4.0, 20.0, Reason.OTHER_MODALITY),
    ("fluid_over_white", MRI, 1.0, 3.0, Reason.OTHER_MODALITY),
    ("fluid_over_white", PET, 1.4, 4.0, Reason.OTHER_MODALITY),
    ("agreement", ("flair",), 0.35, 0.05, Reason.BAD_REGISTRATION),
    ("agreement", ("amyloid",), 0.3, 0.05, Reason.BAD_REGISTRATION),
    ("agreement", ("tau",), 0.25, 0.05, Reason.BAD_REGISTRATION),
    ("noise", MRI, 0.5, NONE, Reason.NO_BRAIN_SEEN),
    ("follows_t1", ("flair", *PET), False, NONE, Reason.UNSURE_WITHOUT_T1),
    ("reference_voxels", PET, 60, 3, Reason.WRONG_UPTAKE),
    ("reference_variation", PET, 0.7, 5.0, Reason.WRONG_UPTAKE),
    ("reference_uptake", PET, NONE, 0.0, Reason.WRONG_UPTAKE),
    ("cortical_suvr", PET, 0.3, 0.05, Reason.WRONG_UPTAKE),
    ("cortical_suvr", PET, 5.0, 40.0, Reason.WRONG_UPTAKE),
    ("motion_mm", PET, 10.0, 90.0, Reason.MOVED),
]


def finding(field: str, modality: str, value: float | None) -> Finding | None:
    """What the limits say of one value, whatever the others are."""
    image = replace(METRICS, modality=modality, **{field: value})  # type: ignore[arg-type]
    return next((f for f in judge_alone(image).findings if f.field == field), None)


@pytest.mark.parametrize(("field", "modalities", "odd", "impossible", "reason"), LIMITS)
def test_a_value_far_beyond_a_limit_is_looked_at_or_fails_for_its_reason(
    field: str, modalities: tuple[str, ...], odd: float | None, impossible: float | None, reason: Reason
) -> None:
    for modality in modalities:
        for value, verdict in ((odd, Verdict.LOOK), (impossible, Verdict.FAILED)):
            if value is not None:
                found = finding(field, modality, value)
                assert found is not None and (found.verdict, found.reason) == (verdict, reason), (modality, value)


def test_every_limit_that_is_set_is_tested_here() -> None:
    tested = {(field, modality) for field, modalities, *_ in LIMITS for modality in modalities}
    # Those of images without a T1 have tests of their own in test_rules; a T1 follows itself.
    declared = {
        (m.field, name) for m in MEASURES for name in EVERY
        if (found := m.limits_for(name)) is not None and not found.without_t1
    }  # fmt: skip
    assert tested == declared - {("follows_t1", "t1")}


def test_a_modality_of_another_name_is_held_to_the_limits_of_a_t1() -> None:
    for value in (3.0, 6.0, 30.0):
        assert finding("disagreement_mm", "t2", value) == finding("disagreement_mm", "t1", value)


def test_a_finding_says_which_limit_was_passed_and_what_to_do() -> None:
    said = [finding("mask_volume_ml", "t1", value) for value in (450.0, 3200.0)]
    expected = ("450 ml, at least 900 ml", "3200 ml, at most 2000 ml")
    texts = [f"Volume of the mask: {limit} expected; heads hold 1000 to 1900 ml" for limit in expected]
    assert [found.text for found in said if found] == texts
    mirrored = finding("is_mirrored", "t1", True)
    assert mirrored and mirrored.text == "Registration mirrors the brain: yes; it must not exchange left and right"


def test_failures_come_first_and_one_metric_is_spoken_of_once() -> None:
    both = judge_alone(replace(METRICS, stretch=1.45, is_mirrored=True))
    assert [found.field for found in both.findings] == ["is_mirrored", "stretch"]
    grainy = judge([*[METRICS] * 30, replace(METRICS, noise=0.3)])[-1]
    assert [(found.field, found.reason) for found in grainy.findings] == [("noise", Reason.NO_BRAIN_SEEN)]
