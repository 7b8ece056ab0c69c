"""Images changed in one way each, as archives, scanners and people change them; all of synthetic subjects.

A change takes an image and returns another one that a person might give in its place. The
one real head is the template that nilearn packages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import nilearn
import numpy as np
from jaxtyping import Float32
from scipy import ndimage

FWHM_TO_SIGMA = 1 / 2.3548
TEMPLATE = Path(nilearn.__file__).parent / "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"

Volume = Float32[np.ndarray, "x y z"]
Values = Callable[[Volume, np.random.Generator], Volume]


@dataclass(frozen=True)
class Change:
    """One way in which an image is unlike the training's."""

    modality: str
    name: str
    image: Callable[[nib.Nifti1Image, np.random.Generator], nib.Nifti1Image]
    wanted: str
    """What is right, as the list of cases says it."""
    source: str = ""
    """The modality whose image is given in its place; empty: its own."""


def _values(
    change: Values, dtype: type = np.float32
) -> Callable[[nib.Nifti1Image, np.random.Generator], nib.Nifti1Image]:
    """A change of values alone, written as `dtype`."""

    def image(original: nib.Nifti1Image, rng: np.random.Generator) -> nib.Nifti1Image:
        changed = change(original.get_fdata(dtype=np.float32), rng)
        return _like(original, changed, original.affine, dtype)

    return image


def _like(original: nib.Nifti1Image, voxels: Volume, affine: np.ndarray, dtype: type = np.float32) -> nib.Nifti1Image:
    image = nib.Nifti1Image(voxels, affine)
    image.set_data_dtype(dtype)
    code = int(original.header["sform_code"])
    image.set_sform(affine, code=code)
    image.set_qform(affine, code=code)
    return image


def with_background(voxels: Volume, rng: np.random.Generator, level: float) -> Volume:
    """Zeros become this level."""
    return np.asarray(np.where(voxels == 0, np.float32(level), voxels))


def with_noise(voxels: Volume, rng: np.random.Generator, share: float) -> Volume:
    """A magnitude image's noise, everywhere, its SD a share of the maximum."""
    noise = rng.normal(0, share * voxels.max(), (2, *voxels.shape)).astype(np.float32)
    return np.asarray(np.hypot(voxels + noise[0], noise[1]))


def with_negative_voxel(voxels: Volume, rng: np.random.Generator) -> Volume:
    """One voxel of −1 in the air, after scaling to a scanner's range."""
    scaled = voxels * np.float32(1000 / voxels.max())
    scaled[2, 2, 2] = -1
    return scaled


def with_skull(voxels: Volume, rng: np.random.Generator) -> Volume:
    """The brain with 8 mm of dark fluid and bone and 8 mm of bright scalp around it, on 4 mm voxels."""
    brain = ndimage.binary_fill_holes(voxels > 0)
    bone, scalp = ndimage.binary_dilation(brain, iterations=2), ndimage.binary_dilation(brain, iterations=4)
    bright = np.quantile(voxels[brain], 0.95) * rng.uniform(0.7, 1.3, voxels.shape)
    around = np.where(bone, 0.15 * bright, np.where(scalp, bright, 0))
    return np.asarray(np.where(brain, voxels, around), dtype=np.float32)


def smoothed(voxels: Volume, rng: np.random.Generator, fwhm_voxels: float) -> Volume:
    """Blurred, across the edge of the brain too."""
    return np.asarray(ndimage.gaussian_filter(voxels, fwhm_voxels * FWHM_TO_SIGMA))


def with_bias(voxels: Volume, rng: np.random.Generator, share: float) -> Volume:
    """A smooth field from 1 − share to 1 + share, from front to back."""
    field = 1 + share * np.linspace(-1, 1, voxels.shape[1], dtype=np.float32)
    return np.asarray(voxels * field[None, :, None])


def scaled(voxels: Volume, rng: np.random.Generator, factor: float) -> Volume:
    """Every value times a factor."""
    return np.asarray(voxels * np.float32(factor))


def standardised(voxels: Volume, rng: np.random.Generator) -> Volume:
    """Mean 0 and SD 1 over the brain."""
    brain = voxels[voxels > 0]
    return np.asarray(np.where(voxels > 0, (voxels - brain.mean()) / brain.std(), 0), dtype=np.float32)


def standardised_whole(voxels: Volume, rng: np.random.Generator) -> Volume:
    """Mean 0 and SD 1 over the whole image, air included."""
    return np.asarray((voxels - voxels.mean()) / voxels.std(), dtype=np.float32)


def without_scale(voxels: Volume, rng: np.random.Generator) -> Volume:
    """Integers from 0 to 99."""
    return np.asarray(np.round(voxels * 99 / voxels.max()), dtype=np.float32)


def mask(voxels: Volume, rng: np.random.Generator) -> Volume:
    """A brain mask, resampled: 1 within, fractions at its edge."""
    return np.asarray(ndimage.uniform_filter((voxels > 0).astype(np.float32), 2))


def unchanged(voxels: Volume, rng: np.random.Generator) -> Volume:
    """The same values."""
    return voxels


def _resampled(original: nib.Nifti1Image, rng: np.random.Generator, spacing_mm: float) -> nib.Nifti1Image:
    """On voxels of another size, linearly, with the affine that says so."""
    voxels, edge = original.get_fdata(dtype=np.float32), float(original.affine[0, 0])
    step = spacing_mm / edge
    shape = tuple(int(np.floor((n - 1) / step)) + 1 for n in voxels.shape)
    affine = original.affine @ np.diag([step, step, step, 1.0])
    return _like(original, ndimage.affine_transform(voxels, np.full(3, step), output_shape=shape, order=1), affine)


def _shifted(original: nib.Nifti1Image, rng: np.random.Generator) -> nib.Nifti1Image:
    """On a grid that lies half a voxel further along every axis, with the affine that says so."""
    voxels, affine = original.get_fdata(dtype=np.float32), original.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.full(3, 0.5)
    return _like(original, ndimage.shift(voxels, -0.5, order=1), affine)


def _pitched(original: nib.Nifti1Image, rng: np.random.Generator, degrees: float) -> nib.Nifti1Image:
    """The head nods: it is not registered to the template."""
    voxels = original.get_fdata(dtype=np.float32)
    return _like(original, ndimage.rotate(voxels, degrees, axes=(1, 2), reshape=False, order=1), original.affine)


def _moved(original: nib.Nifti1Image, rng: np.random.Generator, distance_mm: float) -> nib.Nifti1Image:
    """The brain lies elsewhere than the template's, and the header does not know."""
    voxels, edge = original.get_fdata(dtype=np.float32), float(original.affine[0, 0])
    return _like(original, ndimage.shift(voxels, (0, distance_mm / edge, 0), order=1), original.affine)


def _template(original: nib.Nifti1Image, rng: np.random.Generator) -> nib.Nifti1Image:
    """The ICBM152 average of 152 healthy heads, skull stripped, at 1 mm."""
    image: nib.Nifti1Image = nib.load(TEMPLATE)
    return image


NONE, SMALL, FLAGGED, REFUSED = "under 0.1", "under 0.2", "flagged", "refused"

CHANGES = (
    Change("t1", "background of 0.1% of the maximum", _values(
        lambda v, rng: with_background(v, rng, 0.001 * float(v.max()))), NONE),
    Change("t1", "background of 1e-15", _values(partial(with_background, level=1e-15)), NONE),
    Change("t1", "air noise, 1%", _values(partial(with_noise, share=0.01)), NONE),
    Change("t1", "one voxel of -1 in an int16 file", _values(with_negative_voxel, np.int16), NONE),
    Change("t1", "skull kept", _values(with_skull), REFUSED),
    Change("t1", "smoothed by 8 mm", _values(partial(smoothed, fwhm_voxels=2.0)), FLAGGED),
    Change("t1", "resampled to 1 mm", partial(_resampled, spacing_mm=1.0), NONE),
    Change("t1", "resampled to 3 mm", partial(_resampled, spacing_mm=3.0), SMALL),
    Change("t1", "shifted by half a voxel, affine says so", _shifted, NONE),
    Change("t1", "pitched by 5°", partial(_pitched, degrees=5), "prepared"),
    Change("t1", "pitched by 12°", partial(_pitched, degrees=12), "prepared"),
    Change("t1", "bias field of 20%", _values(partial(with_bias, share=0.2)), "prepared"),
    Change("t1", "a brain mask", _values(mask), REFUSED),
    Change("t1", "FLAIR given as T1", _values(unchanged), REFUSED, source="flair"),
    Change("flair", "T1 given as FLAIR", _values(unchanged), FLAGGED, source="t1"),
    Change("t1", "ICBM152 template", _template, FLAGGED),
    Change("amyloid", "× 10", _values(partial(scaled, factor=10.0)), REFUSED),
    Change("amyloid", "× 25", _values(partial(scaled, factor=25.0)), REFUSED),
    Change("amyloid", "× 0.001", _values(partial(scaled, factor=0.001)), REFUSED),
    Change("amyloid", "other reference region (× 0.8)", _values(partial(scaled, factor=0.8)), "prepared"),
    Change("amyloid", "bias of 20%", _values(partial(with_bias, share=0.2)), FLAGGED),
    Change("tau", "integers 0-99, scale lost", _values(without_scale, np.int16), REFUSED),
    Change("tau", "z-scored over the brain", _values(standardised), REFUSED),
    Change("tau", "z-scored over the whole image", _values(standardised_whole), REFUSED),
    Change("tau", "10 mm off its T1", partial(_moved, distance_mm=10.0), FLAGGED),
)  # fmt: skip
