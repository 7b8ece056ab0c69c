"""Images unlike a training set's are told from those like it, and its card holds no image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from permmoe.config import VolumeGrid, parse_config
from permmoe.data.cohort.anatomy import load_anatomy
from permmoe.data.cohort.imaging import render
from permmoe.data.cohort.scanners import site_scanner
from permmoe.data.cohort.settings import CohortConfig
from permmoe.data.cohort.subjects import draw_subject
from permmoe.data.image_features import FEATURES, image_features
from permmoe.data.likeness import (
    LEAST_IMAGES,
    Likeness,
    Verdict,
    fit_likeness,
    unusual_rows,
    verdict,
)
from permmoe.errors import ConfigurationError

GRID = VolumeGrid(shape=(24, 28, 24), spacing_mm=8.0)
COHORT = CohortConfig(subjects=160, sites=4, grid=GRID)
TRAINING = 110

Volumes = dict[str, list[np.ndarray]]


def features_of(images: list[np.ndarray]) -> np.ndarray:
    return np.stack([image_features(image) for image in images])


def standardised(voxels: np.ndarray) -> np.ndarray:
    inside = voxels != 0
    return np.where(inside, (voxels - voxels[inside].mean()) / voxels[inside].std(), 0).astype(np.float32)


@pytest.fixture(scope="module")
def volumes() -> Volumes:
    """Prepared volumes of synthetic subjects, as many of each modality as there are subjects."""
    found: Volumes = {"t1": [], "flair": [], "amyloid": []}
    anatomy = load_anatomy(GRID)
    for index in range(COHORT.subjects):
        subject = draw_subject(COHORT, index)
        scanner = site_scanner(COHORT.seed, subject.site.code, COHORT.site_shift)
        images = render(subject, scanner, anatomy, COHORT.seed, ("t1", "flair", "amyloid"))
        for name in ("t1", "flair"):
            found[name].append(standardised(images[name]))
        found["amyloid"].append(images["amyloid"])
    return found


@pytest.fixture(scope="module")
def usual(volumes: Volumes) -> dict[str, Likeness]:
    fitted = {name: fit_likeness(features_of(images[:TRAINING])) for name, images in volumes.items()}
    return {name: likeness for name, likeness in fitted.items() if likeness is not None}


def verdicts(images: Iterator[np.ndarray] | list[np.ndarray], name: str, usual: dict[str, Likeness]) -> list[Verdict]:
    others = {"t1": ["flair"], "flair": ["t1"], "amyloid": []}[name]
    return [verdict(image, usual[name], [usual[other] for other in others]) for image in images]


@pytest.mark.parametrize("name", ["t1", "flair", "amyloid"])
def test_hardly_any_image_of_the_trainings_kind_is_warned_of(
    name: str, volumes: Volumes, usual: dict[str, Likeness]
) -> None:
    found = verdicts(volumes[name][TRAINING:], name, usual)
    assert Verdict.OTHER_KIND not in found
    assert found.count(Verdict.UNUSUAL) <= 2


@pytest.mark.parametrize(("name", "given"), [("t1", "flair"), ("flair", "t1")])
def test_an_image_of_another_modality_is_of_another_kind(
    name: str, given: str, volumes: Volumes, usual: dict[str, Likeness]
) -> None:
    found = verdicts(volumes[given][TRAINING:], name, usual)
    assert found.count(Verdict.OTHER_KIND) > 0.7 * len(found)
    assert found.count(Verdict.USUAL) < 0.25 * len(found)


def test_blurred_images_masks_and_skulls_do_not_pass_for_a_t1(volumes: Volumes, usual: dict[str, Likeness]) -> None:
    for image in volumes["t1"][TRAINING : TRAINING + 7]:
        brain = image != 0
        blurred = standardised(ndimage.gaussian_filter(image - image.min() * brain, 0.9))
        mask = standardised(ndimage.uniform_filter(brain.astype(np.float32), 2))
        skull = standardised(np.where(ndimage.binary_dilation(brain, iterations=2) & ~brain, 2.0, image))
        assert verdicts([mask, skull], "t1", usual) == [Verdict.OTHER_KIND] * 2
        assert verdicts([blurred], "t1", usual) != [Verdict.USUAL]


def test_a_brain_that_is_not_where_the_templates_is_is_warned_of(volumes: Volumes, usual: dict[str, Likeness]) -> None:
    moved = [np.roll(image, 2, axis=1) for image in volumes["amyloid"][TRAINING:]]
    assert Verdict.USUAL not in verdicts(moved, "amyloid", usual)


def test_too_few_images_do_not_tell_what_is_usual(volumes: Volumes) -> None:
    few = features_of(volumes["t1"][: LEAST_IMAGES - 1])
    assert fit_likeness(few) is None and unusual_rows(few) == ()
    assert fit_likeness(features_of(volumes["t1"][:LEAST_IMAGES])) is not None


def test_an_odd_image_among_the_training_images_is_found(volumes: Volumes) -> None:
    images = list(volumes["t1"][:60])
    brain = images[17] != 0
    images[17] = standardised(np.where(ndimage.binary_dilation(brain, iterations=2) & ~brain, 2.0, images[17]))
    assert 17 in unusual_rows(features_of(images))


def test_what_is_usual_survives_the_card(usual: dict[str, Likeness]) -> None:
    assert parse_config(usual["t1"].model_dump(mode="json"), Likeness, "card") == usual["t1"]
    with pytest.raises(ConfigurationError, match="means"):
        parse_config({**usual["t1"].model_dump(mode="json"), "means": [1.0]}, Likeness, "card")


def test_features_do_not_depend_on_voxels_that_are_far_from_the_head(volumes: Volumes) -> None:
    image = volumes["t1"][0]
    assert len(image_features(image)) == len(FEATURES)
    assert np.isfinite(image_features(np.eye(24, dtype=np.float32)[:, :, None] * np.ones(24, np.float32))).all()


def test_the_figures_hold_no_image(usual: dict[str, Likeness], tmp_path: Path) -> None:
    """They are a set's means, deviations and correlations: many fewer than the numbers of the images."""
    held = len(FEATURES) * (len(FEATURES) + 2)
    assert held < 0.1 * TRAINING * np.prod(GRID.shape)
    assert set(usual["t1"].model_dump()) == {"images", "means", "deviations", "precision", "usual_distance"}
