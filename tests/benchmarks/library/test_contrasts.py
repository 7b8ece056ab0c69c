from __future__ import annotations

from functools import cache

import nibabel as nib
import numpy as np
import pytest
from jaxtyping import Float
from scipy import ndimage

from permmoe.data.cohort.raw.pose import mapped
from permmoe.data.template import read_template
from permmoe.preparation.images.image import Image, isotropic, template_image
from permmoe_benchmarks.library.contrasts import flair_scanned, pet_scanned
from permmoe_benchmarks.library.heads import Head

SPACING_MM = 4.0


@cache
def _head() -> Head:
    """The template's brain in a bright scalp."""
    t1 = isotropic(template_image(read_template("t1")), SPACING_MM)
    brain = ndimage.binary_fill_holes(t1.voxels > 0.1)
    near, far = (ndimage.binary_dilation(brain, iterations=n) for n in (2, 4))
    voxels = np.where(far & ~near, 1.2, np.where(brain, t1.voxels, 0)).astype(np.float32)
    return Head("drawn", nib.Nifti1Image(voxels, t1.affine), nib.Nifti1Image(brain.astype(np.uint8), t1.affine))


def _middle(tissue: Image, image: nib.Nifti1Image, to_original: Float[np.ndarray, "4 4"]) -> float:
    """The image's median where the head has nothing but a tissue, by the map that is said to be true."""
    points = mapped(tissue.affine, np.argwhere(tissue.voxels > 0.8).astype(float))
    places = mapped(np.linalg.inv(to_original @ image.affine), points)
    return float(np.median(ndimage.map_coordinates(image.get_fdata(), places.T, order=1)))


@cache
def _tissues() -> dict[str, Image]:
    grey, white, brain = (template_image(read_template(name)) for name in ("gm", "wm", "t1"))
    fluid = (brain.voxels > 0) & (grey.voxels + white.voxels < 0.1)
    maps = {"grey": grey, "white": white, "fluid": brain.with_voxels(fluid.astype(np.float32))}
    return {name: isotropic(tissue, SPACING_MM) for name, tissue in maps.items()}


@pytest.mark.parametrize("seed", range(2))
def test_in_a_flair_fluid_is_dark_and_grey_matter_brighter_than_white_and_slices_are_thick(seed: int) -> None:
    image, to_original = flair_scanned(_head(), seed)
    bright = {name: _middle(tissue, image, to_original) for name, tissue in _tissues().items()}
    assert 1.5 * bright["fluid"] < bright["white"] < bright["grey"]
    np.testing.assert_allclose(sorted(image.header.get_zooms()), [1, 1, 3], atol=1e-3)


def test_a_pet_shows_little_uptake_in_fluid_and_has_coarse_voxels() -> None:
    image, to_original = pet_scanned(_head(), 1)
    bright = {name: _middle(tissue, image, to_original) for name, tissue in _tissues().items()}
    assert 1.1 * bright["fluid"] < bright["white"]
    assert all(2 <= edge <= 4 for edge in image.header.get_zooms())


@pytest.mark.parametrize("scanned", [flair_scanned, pet_scanned])
def test_equal_seeds_give_equal_bytes_and_others_do_not(scanned: object) -> None:
    first, again, other = (scanned(_head(), seed)[0].to_bytes() for seed in (3, 3, 4))  # type: ignore[operator]
    assert first == again != other


def test_a_head_whose_brain_nobody_marked_is_refused() -> None:
    with pytest.raises(ValueError, match="colin27"):
        flair_scanned(Head("drawn", _head().image), 0)
