"""Images with a place: conversions lose nothing, and resampling puts voxels where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from permmoe.config import VolumeGrid
from permmoe.data.volumes import grid_affine
from permmoe.preparation.images.image import Image, from_itk, isotropic, itk_transform, matrix_of, on_grid, onto, to_itk
from tests.permmoe.preparation.images.heads import pose


@pytest.fixture
def image() -> Image:
    rng = np.random.default_rng(0)
    affine = pose((20, -10, 30), (5, 6, 7)) @ np.diag([1.0, 2.0, 3.0, 1.0])
    return Image(rng.random((11, 7, 5), np.float32), affine)


def test_an_image_comes_back_from_simpleitk_as_it_went(image: Image) -> None:
    back = from_itk(to_itk(image))
    assert np.array_equal(back.voxels, image.voxels) and np.allclose(back.affine, image.affine)


def test_a_map_comes_back_from_simpleitk_as_it_went() -> None:
    matrix = pose((10, 20, 30), (1, 2, 3), scale=1.1)
    assert np.allclose(matrix_of(itk_transform(matrix)), matrix)


def test_an_image_on_its_own_voxels_is_itself(image: Image) -> None:
    assert np.allclose(onto(image, image, np.eye(4)).voxels, image.voxels, atol=1e-4)


def test_a_blob_lies_on_the_grid_where_the_map_takes_it() -> None:
    grid = VolumeGrid(shape=(31, 29, 23), spacing_mm=4.0)
    to_scan = pose((0, 0, 90), (100, 0, 0))
    point = np.array([12.0, -30.0, 22.0])
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (to_scan @ [*point, 1])[:3] - 20
    scan = Image(np.zeros((21, 21, 21), np.float32), affine)
    scan.voxels[10, 10, 10] = 1
    found = on_grid(scan, grid, to_scan)
    middle = found.centre_of_mass_mm()
    assert np.allclose(found.affine, grid_affine(grid)) and np.abs(middle - point).max() < 2.0


def test_a_coarser_image_keeps_its_mean_and_its_place() -> None:
    rng = np.random.default_rng(1)
    image = Image(rng.random((40, 40, 40), np.float32), np.diag([1.0, 1.0, 1.0, 1.0]))
    coarse = isotropic(image, 4.0)
    assert abs(float(coarse.voxels.mean()) - 0.5) < 0.01
    assert np.allclose(coarse.centre_of_mass_mm(), image.centre_of_mass_mm(), atol=0.3)
