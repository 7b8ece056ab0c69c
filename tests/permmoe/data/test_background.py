"""An image's background is found, not assumed: whatever air holds, the head is the same."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from permmoe.config import VolumeGrid
from permmoe.data.background import without_background
from permmoe.data.cohort import CohortConfig, write_cohort
from permmoe.data.volumes import grid_affine, read_volume
from permmoe.modality import Modality
from tests.permmoe.data.test_volumes import save

MRI = Modality(name="t1")
GRID = VolumeGrid(shape=(23, 29, 19), spacing_mm=8.0)


def head(seed: int = 0) -> np.ndarray:
    """A ball with values from 300 to 900 and a dark lake of 5 in it; exactly 0 around it."""
    rng = np.random.default_rng(seed)
    places = np.indices(GRID.shape) - (np.array(GRID.shape) // 2)[:, None, None, None]
    distance = np.sqrt((places**2).sum(0))
    voxels = np.where(distance < 7, rng.uniform(300, 900, GRID.shape), 0)
    return np.where(distance < 1.5, 5, voxels).astype(np.float32)


def in_air(voxels: np.ndarray, value: object) -> np.ndarray:
    return np.where(voxels == 0, value, voxels).astype(np.float32)


def test_an_image_whose_air_is_exactly_zero_keeps_every_bit() -> None:
    assert without_background(head()) is not None
    voxels = head()
    assert without_background(voxels) is voxels


@pytest.mark.parametrize("level", [1e-15, -1e-15, 1e-3, 0.9, -0.9, 40.0])
def test_a_level_of_the_air_is_found_whatever_it_is(level: float) -> None:
    assert np.array_equal(without_background(in_air(head(), level)), head())


@pytest.mark.parametrize("seed", range(5))
def test_noise_in_the_air_is_found_and_the_dark_lake_inside_stays(seed: int) -> None:
    noise = np.abs(np.random.default_rng(seed).normal(0, 9, GRID.shape))
    found = without_background(in_air(head(), noise))
    assert np.array_equal(found[head() != 0], head()[head() != 0])
    assert (found == 5).sum() > 5
    assert ((found != 0) & (head() == 0)).sum() <= 5, "a speck may touch the head"


def test_noise_in_whole_numbers_most_of_which_are_zero_is_found() -> None:
    noise = np.random.default_rng(0).choice([0, 1, 2], GRID.shape, p=[0.7, 0.2, 0.1])
    assert np.array_equal(without_background(in_air(head(), noise)), head())


def test_a_bright_speck_in_noisy_air_is_not_part_of_the_head() -> None:
    voxels = in_air(head(), np.abs(np.random.default_rng(0).normal(0, 5, GRID.shape)))
    voxels[2, 3, 2] = 700
    assert np.array_equal(without_background(voxels), head())


def test_three_corners_may_hold_a_neck_or_a_table() -> None:
    voxels = in_air(head(), 2.0)
    for corner in ((0, 0, 0), (-1, 0, 0), (0, -1, 0)):
        voxels[tuple(slice(0, 4) if end == 0 else slice(-4, None) for end in corner)] = 500
    ball = head() != 0
    found = without_background(voxels)
    assert np.array_equal(found[ball], head()[ball])
    assert (found[~ball] == 500).sum() + (found[~ball] == 0).sum() == (~ball).sum()


def test_padding_around_noisy_air_is_cut_off() -> None:
    noise = np.abs(np.random.default_rng(0).normal(0, 9, GRID.shape))
    padded = np.pad(in_air(head(), noise), 6)
    assert np.array_equal(without_background(padded), np.pad(head(), 6))


def test_a_field_of_view_inside_the_head_has_no_background() -> None:
    inside = np.random.default_rng(0).uniform(300, 900, GRID.shape).astype(np.float32)
    assert without_background(inside) is inside


@pytest.mark.parametrize("layout", ["bids", "caps"])
def test_the_synthetic_cohort_has_no_other_background_than_zero(tmp_path: Path, layout: str) -> None:
    """So its prepared volumes, and all results on them, are to the bit what they were when 0 was assumed."""
    write_cohort(tmp_path, CohortConfig(subjects=6, sites=2, layout=layout), workers=1)  # type: ignore[arg-type]
    images = sorted(tmp_path.rglob("*.nii.gz"))
    assert len(images) > 12
    for image in images:
        voxels = nib.load(image).get_fdata(dtype=np.float32)
        assert without_background(voxels) is voxels


def test_zeros_that_come_back_as_a_fraction_leave_a_prepared_image_as_it_is(tmp_path: Path) -> None:
    clean = read_volume(save(tmp_path, head(), grid_affine(GRID)), MRI, GRID)
    voxels = head()
    voxels[1, 1, 1] = -1
    image = nib.Nifti1Image(voxels, grid_affine(GRID))
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "negative.nii")
    assert not (nib.load(tmp_path / "negative.nii").get_fdata() == 0).any()
    read = read_volume(tmp_path / "negative.nii", MRI, GRID)
    np.testing.assert_allclose(read.numpy(), clean.numpy(), atol=0.01)
