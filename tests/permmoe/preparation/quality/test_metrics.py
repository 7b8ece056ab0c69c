"""Metrics are computed for whatever is handed in, and say of it what is true."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import ndimage

from permmoe.preparation.quality.metrics import ImageMetrics, Known, image_metrics
from permmoe.preparation.quality.rules import Verdict, judge_alone
from tests.support.prepared_heads import AMYLOID, FLAIR, GRID, head, mask, scaled, shifted, true_error_mm, turned

EMPTY = np.zeros(GRID.shape, np.float32)
NOWHERE = np.zeros(GRID.shape, bool)
EVERYWHERE = ~NOWHERE


def t1(place: np.ndarray | None = None, **known: object) -> ImageMetrics:
    return image_metrics(head(place=place), mask(place=place), "t1", GRID, known=Known(**known))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "place",
    [turned(axis, degrees) for axis in range(3) for degrees in (-20.0, 180.0)]
    + [shifted(axis, mm) for axis in range(3) for mm in (-20.0, 8.0)]
    + [scaled(0.8), scaled(1.25), scaled(1.0, 0.8, 1.0), scaled(1.0, 1.0, 1.25)],
)
def test_a_second_registration_finds_how_far_a_head_lies_off(place: np.ndarray) -> None:
    found, true = t1(place), true_error_mm(place)
    assert found.disagreement_mm == pytest.approx(true, rel=0.1, abs=2.5)


def test_a_head_in_its_place_is_left_there() -> None:
    assert t1().disagreement_mm < 2.5
    assert t1().mask_overlap > 0.93 and t1().correlation > 0.7


@pytest.mark.parametrize("contrast", [FLAIR, AMYLOID])
def test_the_second_registration_suits_every_contrast(contrast: tuple[float, float, float]) -> None:
    place = turned(0, 20.0)
    found = image_metrics(head(contrast, place=place), mask(place=place), "t1", GRID)
    assert found.disagreement_mm == pytest.approx(true_error_mm(place), abs=2.5)


@pytest.mark.parametrize("values", [EMPTY, EMPTY * np.nan, EMPTY + 7, EMPTY - np.inf, -head()])
@pytest.mark.parametrize("where", [NOWHERE, EVERYWHERE])
def test_any_image_and_any_mask_give_numbers_that_json_holds(values: np.ndarray, where: np.ndarray) -> None:
    found = image_metrics(values, where, "amyloid", GRID, own_t1=values)
    assert ImageMetrics(**json.loads(json.dumps(asdict(found), allow_nan=False))) == found


def test_metrics_do_not_depend_on_the_unit_of_the_voxels() -> None:
    plain = asdict(image_metrics(head(), mask(), "t1", GRID))
    scaled_up = asdict(image_metrics(head() * np.float32(1000), mask(), "t1", GRID))
    assert plain == {name: pytest.approx(v, abs=0.02) if isinstance(v, float) else v for name, v in scaled_up.items()}


def test_what_lies_outside_the_mask_counts_for_nothing() -> None:
    around = np.where(mask(), head(), 500).astype(np.float32)
    assert image_metrics(around, mask(), "t1", GRID) == image_metrics(head(), mask(), "t1", GRID)


def test_the_affine_s_scales_turn_and_handedness_are_read_whatever_their_order() -> None:
    affine = turned(0, 25.0) @ np.diag([1.3, 1.0, 0.9, 1.0])
    found = t1(affine=affine)
    assert found.largest_scale == pytest.approx(1.3) and found.smallest_scale == pytest.approx(0.9)
    assert found.stretch == pytest.approx(1.3 / 0.9) and found.rotation_degrees == pytest.approx(25)
    assert found.is_mirrored is False
    assert t1(affine=affine @ np.diag([-1.0, 1, 1, 1])).is_mirrored is True


def test_an_unknown_affine_has_no_scale() -> None:
    assert t1().stretch is None and t1().is_mirrored is None


def test_uptake_is_measured_in_the_cortex_of_pet_alone() -> None:
    found = image_metrics(head(AMYLOID), mask(), "amyloid", GRID)
    assert found.cortical_suvr == pytest.approx(AMYLOID[0], rel=0.15)
    assert image_metrics(head(AMYLOID), mask(), "t1", GRID).cortical_suvr is None


def test_a_flair_and_a_t1_that_are_mirrored_towards_each_other_are_told() -> None:
    straight = image_metrics(head(FLAIR), mask(), "flair", GRID, own_t1=head())
    mirrored = image_metrics(head(FLAIR)[::-1].copy(), mask()[::-1].copy(), "flair", GRID, own_t1=head())
    assert straight.mirrored_gain is not None and mirrored.mirrored_gain is not None
    assert straight.mirrored_gain < 0 < mirrored.mirrored_gain


def test_a_pet_that_lies_off_its_own_t1_is_measured_against_that() -> None:
    place = shifted(1, 12.0)
    found = image_metrics(head(AMYLOID, place=place), mask(place=place), "amyloid", GRID, own_t1=head())
    assert found.own_t1_disagreement_mm == pytest.approx(12, abs=2)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_pet_whose_cortex_took_up_so_much_that_no_tissue_shows_is_not_left_out_for_that(seed: int) -> None:
    patches = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(GRID.shape), 3)
    filled = head((1.0, 1.0, 0.6)) * (1 + 0.3 * patches / patches.std())
    found = image_metrics(filled.astype(np.float32), mask(), "amyloid", GRID, own_t1=head())
    # The second opinion, by tissues alone, errs here.
    assert found.own_t1_disagreement_mm is not None and found.own_t1_disagreement_mm > 8
    assert judge_alone(replace(found, follows_t1=True)).verdict is Verdict.GOOD


def test_more_noise_measures_as_more_noise() -> None:
    rng = np.random.default_rng(0)
    measured = []
    for noise in (0.02, 0.05, 0.1, 0.2):
        noisy = (head() + rng.normal(0, noise, GRID.shape)).astype(np.float32)
        measured.append(image_metrics(noisy, mask(), "t1", GRID).noise)
    assert measured == sorted(measured)  # type: ignore[type-var]
    assert measured[-1] == pytest.approx(0.2, rel=0.4)
