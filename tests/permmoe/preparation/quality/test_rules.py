"""Failures are caught whatever other images are like, outliers by comparison, and good images pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy import ndimage

from permmoe.data.reasons import Reason
from permmoe.preparation.quality.limits import MEASURES
from permmoe.preparation.quality.metrics import ImageMetrics, Known, image_metrics
from permmoe.preparation.quality.rules import LEAST_IMAGES, Verdict, judge, judge_alone
from tests.support.prepared_heads import AMYLOID, FLAIR, GRID, T1, TAU, head, mask, scaled, shifted, turned

GOOD, LOOK, FAILED = Verdict.GOOD, Verdict.LOOK, Verdict.FAILED


def measured(volume: np.ndarray, where: np.ndarray, modality: str = "t1") -> ImageMetrics:
    return image_metrics(volume.astype(np.float32), where, modality, GRID, known=Known(mask_volume_ml=1400.0))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("modality, contrast", [("t1", T1), ("flair", FLAIR), ("amyloid", AMYLOID), ("tau", TAU)])
def test_a_head_in_its_place_is_good(modality: str, contrast: tuple[float, float, float], seed: int) -> None:
    judgement = judge_alone(measured(head(contrast, seed=seed), mask(seed=seed), modality))
    assert (judgement.verdict, judgement.reasons, judgement.reason) == (GOOD, (), None)


@pytest.mark.parametrize(
    "place, expected",
    [(turned(axis, 20.0), FAILED) for axis in range(3)]
    + [(turned(axis, 180.0), FAILED) for axis in range(3)]
    + [(shifted(axis, 10.0), FAILED) for axis in range(3)]
    + [(scaled(0.8), FAILED), (scaled(1.3), FAILED)]
    + [(shifted(axis, 6.0), LOOK) for axis in range(3)]
    + [(shifted(axis, 2.0), GOOD) for axis in range(3)],
)
def test_a_head_far_out_of_place_fails_and_one_that_is_6_mm_off_is_to_be_looked_at(
    place: np.ndarray, expected: Verdict
) -> None:
    judgement = judge_alone(measured(head(place=place, seed=3), mask(place=place, seed=3)))
    assert judgement.verdict is expected
    assert judgement.reason in ((Reason.BAD_REGISTRATION, Reason.BAD_MASK) if expected is FAILED else (None,))


def ball() -> np.ndarray:
    places = (np.indices(GRID.shape) - 24.0) / np.array([18.0, 22.0, 17.0])[:, None, None, None]
    return np.asarray((places**2).sum(0) < 1)


def half(low: bool) -> np.ndarray:
    """Voxels of the left half, or of the lower."""
    where = np.zeros(GRID.shape, bool)
    where[(slice(None), slice(None), slice(0, 22)) if low else slice(0, 24)] = True
    return where


NOISE = np.random.default_rng(0).normal(100, 30, GRID.shape)
NOT_HEADS: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "a ball": lambda: (ball() * 100.0, ball()),
    "a grainy ball": lambda: (ball() * NOISE, ball()),
    "a ball in a brain's mask": lambda: (np.full(GRID.shape, 100.0), mask()),
    "a shaded ball in a brain's mask": lambda: (100 + np.indices(GRID.shape)[0] * 2.0, mask()),
    "noise in a brain's mask": lambda: (NOISE, mask()),
    "cloudy noise in a brain's mask": lambda: (ndimage.gaussian_filter(NOISE, 2) - 90, mask()),
    "nothing": lambda: (np.zeros(GRID.shape), np.zeros(GRID.shape, bool)),
    "nothing in a brain's mask": lambda: (np.zeros(GRID.shape), mask()),
    "no mask": lambda: (head(), np.zeros(GRID.shape, bool)),
    "not numbers": lambda: (head() * np.nan, mask()),
    "left half": lambda: (head() * half(low=False), mask() & half(low=False)),
    "lower half": lambda: (head() * half(low=True), mask() & half(low=True)),
    "half a head in a whole mask": lambda: (head() * half(low=False), mask()),
    "the whole field as mask": lambda: (head() + 0.5, np.ones(GRID.shape, bool)),
}


@pytest.mark.parametrize("name", NOT_HEADS)
@pytest.mark.parametrize("modality", ["t1", "tau"])
def test_a_head_that_is_not_one_fails_whatever_it_is_called(name: str, modality: str) -> None:
    judgement = judge_alone(measured(*NOT_HEADS[name](), modality))
    assert judgement.verdict is FAILED and judgement.reason is not None


@pytest.mark.parametrize("place", [turned(0, 180.0), shifted(2, -12.0)])
def test_a_flair_that_lies_off_its_t1_fails_though_the_mask_is_the_t1_s(place: np.ndarray) -> None:
    cut_out = np.where(mask(), head(FLAIR, place=place), 0).astype(np.float32)
    judgement = judge_alone(image_metrics(cut_out, mask(), "flair", GRID, own_t1=head()))
    assert judgement.verdict is FAILED and judgement.reason is Reason.BAD_REGISTRATION


@pytest.mark.parametrize(
    "contrast, modality", [(FLAIR, "t1"), (T1, "flair"), ((0.7, 0.5, 1.5), "t1"), ((0.7, 0.5, 1.5), "flair")]
)
def test_an_image_of_another_contrast_is_told(contrast: tuple[float, float, float], modality: str) -> None:
    judgement = judge_alone(measured(head(contrast), mask(), modality))
    assert judgement.verdict is FAILED and judgement.reason is Reason.OTHER_MODALITY


SOUND = measured(head(), mask())
SOUND_PET = replace(
    measured(head(AMYLOID), mask(), "amyloid"),
    reference_voxels=900, follows_t1=True, reference_variation=0.1, reference_uptake=4000.0, cortical_suvr=1.4,
    motion_mm=0.8,
)  # fmt: skip

ALONE = replace(measured(head(FLAIR), mask(), "flair"), follows_t1=False, lead=1.0)
PET_ALONE = replace(SOUND_PET, follows_t1=False, lead=1.0)


@pytest.mark.parametrize(
    "image, change, expected, reason",
    [
        (SOUND, {"mask_volume_ml": 3200.0}, FAILED, Reason.BAD_MASK),
        (SOUND, {"mask_volume_ml": 450.0}, FAILED, Reason.BAD_MASK),
        (SOUND, {"mask_volume_ml": 2100.0}, LOOK, None),
        (SOUND, {"stretch": 1.7, "largest_scale": 1.6}, FAILED, Reason.BAD_REGISTRATION),
        (SOUND, {"stretch": 1.4}, LOOK, None),
        (SOUND, {"is_mirrored": True}, FAILED, Reason.MIRRORED),
        (SOUND, {"rotation_degrees": 90.0}, LOOK, None),
        (SOUND, {"noise": 0.3}, LOOK, None),
        (SOUND, {"disagreement_mm": float("nan")}, FAILED, Reason.BAD_REGISTRATION),
        (SOUND_PET, {}, GOOD, None),
        (SOUND_PET, {"reference_uptake": 0.0}, FAILED, Reason.WRONG_UPTAKE),
        (SOUND_PET, {"follows_t1": False}, LOOK, None),
        (SOUND_PET, {"reference_voxels": 4}, FAILED, Reason.WRONG_UPTAKE),
        (SOUND_PET, {"cortical_suvr": 12.0}, FAILED, Reason.WRONG_UPTAKE),
        (SOUND_PET, {"motion_mm": 30.0}, FAILED, Reason.MOVED),
        (SOUND_PET, {"motion_mm": 7.0}, LOOK, None),
        (ALONE, {"follows_t1": True, "lead": 0.11}, GOOD, None),
        (ALONE, {"follows_t1": True, "disagreement_mm": 7.4}, LOOK, None),
    ],
)
def test_a_number_beyond_its_limits_decides(
    image: ImageMetrics, change: dict[str, float], expected: Verdict, reason: Reason | None
) -> None:
    judgement = judge_alone(replace(image, **change))  # type: ignore[arg-type]
    assert judgement.verdict is expected and judgement.reason is reason
    assert len(judgement.reasons) == sum(finding.field in change for finding in judgement.findings)


@pytest.mark.parametrize("image", [ALONE, PET_ALONE])
def test_an_image_without_a_t1_never_passes_in_silence_and_is_left_out_where_its_place_is_not_sure(
    image: ImageMetrics,
) -> None:
    judgement = judge_alone(image)
    assert judgement.verdict is LOOK and [f.field for f in judgement.findings] == ["follows_t1"]
    assert "add a T1 of the same visit" in judgement.reasons[0]
    for unsure in ({"lead": 0.11}, {"disagreement_mm": 5.5}, {"lead": float("nan")}):
        judgement = judge_alone(replace(image, **unsure))
        assert judgement.verdict is FAILED and judgement.reason is Reason.UNSURE_WITHOUT_T1


def test_tau_that_shows_no_tissues_is_left_out_where_no_t1_tells_its_place() -> None:
    of_t1 = replace(measured(head(TAU), mask(), "tau"), brain_contrast=0.09, follows_t1=True, lead=1.0)
    assert judge_alone(of_t1).verdict is GOOD
    assert judge_alone(replace(of_t1, follows_t1=False)).reason is Reason.UNSURE_WITHOUT_T1


def crowd(n: int = 30) -> list[ImageMetrics]:
    rng = np.random.default_rng(0)
    return [replace(SOUND, correlation=float(value)) for value in rng.normal(0.8, 0.02, n)]


def test_an_image_far_from_the_others_of_its_modality_is_to_be_looked_at_and_nothing_else() -> None:
    *others, odd = judge([*crowd(), replace(SOUND, correlation=0.4)])
    assert odd.verdict is LOOK and odd.reason is None and [f.field for f in odd.findings] == ["correlation"]
    assert "30 such images" not in odd.reasons[0] and "median of 31 such images" in odd.reasons[0]
    assert all(judgement.verdict is GOOD for judgement in others)


def test_a_registration_that_had_a_rival_is_no_outlier_among_those_that_had_none() -> None:
    had_none = [replace(SOUND, lead=1.0) for _ in range(30)]
    assert judge([*had_none, replace(SOUND, lead=0.2)])[-1].verdict is GOOD


def test_an_image_far_on_the_good_side_is_good() -> None:
    assert judge([*crowd(), replace(SOUND, correlation=0.999)])[-1].verdict is GOOD


def test_few_images_do_not_tell_what_is_usual() -> None:
    assert judge([*crowd(LEAST_IMAGES - 2), replace(SOUND, correlation=0.4)])[-1].verdict is GOOD
    assert judge([*crowd(LEAST_IMAGES - 1), replace(SOUND, correlation=0.4)])[-1].verdict is LOOK


def test_other_modalities_and_failed_images_do_not_tell_what_is_usual() -> None:
    strange = replace(SOUND, correlation=0.4)
    of_flair = [replace(image, modality="flair", white_over_grey=0.9) for image in crowd()]
    of_failed = [replace(image, disagreement_mm=40.0) for image in crowd()]
    assert judge([*of_flair, strange])[-1].verdict is GOOD
    assert judge([*of_failed, strange])[-1].verdict is GOOD


def test_equal_images_have_no_outliers_among_differences_that_mean_nothing() -> None:
    assert judge([*[SOUND] * 30, replace(SOUND, correlation=SOUND.correlation - 0.01)])[-1].verdict is GOOD


def test_an_image_s_judgement_does_not_depend_on_the_order_of_the_others() -> None:
    images = [*crowd(), replace(SOUND, correlation=0.4), replace(SOUND, disagreement_mm=30.0)]
    assert judge(images) == judge(images[::-1])[::-1]


def test_every_metric_has_a_measure_and_every_measure_a_metric() -> None:
    assert {m.field for m in MEASURES} == {f.name for f in fields(ImageMetrics)} - {"modality", "disagreement_degrees"}


@pytest.mark.parametrize("measure", MEASURES)
def test_what_is_usual_is_possible(measure: object) -> None:
    for limits in measure.limits:  # type: ignore[attr-defined]
        assert limits.possible[0] <= limits.usual[0] <= limits.usual[1] <= limits.possible[1]
