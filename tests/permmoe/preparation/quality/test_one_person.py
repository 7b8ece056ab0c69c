"""T1s of one subject whose brains differ too much in volume are to be looked at, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from permmoe.preparation.quality.one_person import with_one_person_each
from permmoe.preparation.quality.rules import Judgement, Verdict, judge_alone
from tests.support.invented_metrics import METRICS, PET

GOOD, LOOK, FAILED = Verdict.GOOD, Verdict.LOOK, Verdict.FAILED


def judged(heads: Sequence[str], volumes: Sequence[float], modality: str = "t1") -> list[Judgement]:
    images = [replace(METRICS, modality=modality, mask_volume_ml=volume) for volume in volumes]
    return with_one_person_each(heads, images, [judge_alone(image) for image in images])


def test_brains_that_cannot_be_one_persons_are_to_be_looked_at_with_both_volumes() -> None:
    one, other = judged("aa", (1250.0, 1500.0))
    assert (one.verdict, one.reason, other.verdict) == (LOOK, None, LOOK)
    [said] = one.reasons
    assert "1250 ml, and 1500 ml in another T1 of this subject" in said and "one identifier" in said
    assert "1500 ml, and 1250 ml" in other.reasons[0]


@pytest.mark.parametrize(
    ("heads", "volumes", "verdicts"),
    [
        ("aa", (1300.0, 1450.0), (GOOD, GOOD)),
        ("ab", (1200.0, 1600.0), (GOOD, GOOD)),
        ("aba", (1500.0, 1490.0, 1250.0), (LOOK, GOOD, LOOK)),
        ("aaa", (1300.0, 1390.0, 1510.0), (LOOK, GOOD, LOOK)),
        ("aa", (1400.0, 3300.0), (GOOD, FAILED)),
        ("a", (1400.0,), (GOOD,)),
    ],
    ids=["atrophy", "two people by name", "among others", "a middle one", "one that has failed", "alone"],
)
def test_what_differs_less_or_belongs_to_others_does_not(
    heads: str, volumes: Sequence[float], verdicts: Sequence[Verdict]
) -> None:
    assert [judgement.verdict for judgement in judged(heads, volumes)] == list(verdicts)


def test_other_images_than_t1_are_not_compared() -> None:
    flair = [replace(METRICS, modality="flair", mask_volume_ml=volume) for volume in (1250.0, 1500.0)]
    assert judged("aa", (1250.0, 1500.0), "flair") == [judge_alone(image) for image in flair]
    images = [PET, METRICS]
    assert with_one_person_each("aa", images, [Judgement(), Judgement()]) == [Judgement(), Judgement()]


def test_a_finding_stands_beside_those_that_were_there() -> None:
    images = [replace(METRICS, mask_volume_ml=volume) for volume in (1100.0, 2250.0)]
    alone = [judge_alone(image) for image in images]
    both = with_one_person_each("aa", images, alone)
    assert len(both[1].findings) == len(alone[1].findings) + 1 == 2
