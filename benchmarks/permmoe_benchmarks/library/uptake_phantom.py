"""PET of known uptake: each tissue of the template brain takes up a known amount, so that the true ratios are known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy import ndimage

from permmoe.data.cohort.anatomy import CENTRE_MM
from permmoe.data.cohort.raw.pose import mapped, rotation
from permmoe.data.cohort.regions import CEREBELLUM, membership
from permmoe.data.template import read_template, template_axes

FWHM_MM = 6.0
"""Of the scanner."""
_FWHM_TO_SIGMA = 1 / 2.3548
_GRAIN_SIGMA_MM = 2.5
_TENTORIUM_MM = -15.0
"""Nothing of the cerebrum's cortex lies as far down and back, but for the poles of the occipital lobes."""
_FRONT_OF_CEREBELLUM_MM = -30.0
_FIELD_MARGIN_MM = 22.0
"""Of skull, scalp and air around the brain."""

Volume = Float32[np.ndarray, "x y z"]
Affine = Float[np.ndarray, "4 4"]


@dataclass(frozen=True)
class KnownUptake:
    """Uptake of each part of the brain, cerebellum being 1: what the ratios have to be."""

    cortex: float = 1.6
    white: float = 1.3
    fluid: float = 0.3
    head: float = 0.4
    """Of the soft tissue around the brain."""


_USUAL = KnownUptake()


@dataclass(frozen=True)
class UptakePhantom:
    """A PET scan in Bq/ml, and what is true of it."""

    image: nib.Nifti1Image
    to_template: Affine
    """From the scan's millimetres to the template's."""
    bq_per_ml: float
    """Counts where the ratio is 1."""
    uptake: KnownUptake

    def true_ratios(self) -> tuple[Volume, Affine]:
        """The ratios on the template's 1 mm grid as the scanner blurs them, without noise."""
        return _blurred(_ratios(self.uptake)), _template_affine()


def uptake_phantom(
    seed: int,
    uptake: KnownUptake = _USUAL,
    *,
    noise: float = 0.05,
    voxel_mm: tuple[float, float, float] = (2.0, 2.0, 3.0),
) -> UptakePhantom:
    """The template's head with known uptake, turned by up to 15° and shifted by up to 20 mm, blurred by 6 mm, in Bq/ml.

    `noise`: SD where the ratio is 1; grainy, as reconstructed PET is. Equal seeds give equal images.
    """
    rng = np.random.default_rng([seed, 30])
    to_template = np.linalg.inv(_pose(rng))
    bq_per_ml = float(np.exp(rng.uniform(np.log(2000), np.log(15000))))
    blurred, template = _blurred(_ratios(uptake)), _template_affine()
    affine, shape = _field(np.linalg.inv(to_template), np.array(voxel_mm))
    matrix = np.linalg.inv(template) @ to_template @ affine
    ratios = ndimage.affine_transform(blurred, matrix[:3, :3], matrix[:3, 3], output_shape=shape, order=1)
    grain = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), _GRAIN_SIGMA_MM / np.array(voxel_mm))
    grain *= noise / grain.std() * np.sqrt(np.clip(ratios, 0.05, None))
    image = nib.Nifti1Image(np.clip(ratios + grain, 0, None).astype(np.float32) * np.float32(bq_per_ml), affine)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    return UptakePhantom(image, to_template, bq_per_ml, uptake)


def cortex() -> Bool[np.ndarray, "x y z"]:
    """Cortex deep enough, and far enough from the cerebellum, that neighbours spill over little; template, 1 mm."""
    grey = _template().grey * ~_template().cerebellum
    return np.asarray((_blurred(grey) > 0.75) & (grey > 0.8))


@dataclass(frozen=True)
class _Template:
    """The parts of the template's head that take up a tracer, at 1 mm."""

    grey: Volume
    white: Volume
    brain: Bool[np.ndarray, "x y z"]
    cerebellum: Bool[np.ndarray, "x y z"]
    """All tissue in and near it, white matter and the fluid between its folds included."""
    scalp: Bool[np.ndarray, "x y z"]
    skull: Bool[np.ndarray, "x y z"]


@lru_cache(maxsize=1)
def _template() -> _Template:
    brain = np.asarray(ndimage.binary_fill_holes(read_template("t1") > 0))
    _, y, z = np.meshgrid(*template_axes(), indexing="ij", sparse=True)
    cerebellum = np.asarray(brain & (z < _TENTORIUM_MM) & (y < _FRONT_OF_CEREBELLUM_MM))
    places = np.argwhere(cerebellum)
    points = np.stack([axis[places[:, i]] for i, axis in enumerate(template_axes())], axis=1)
    balls = tuple((cx, cy, cz, radius + 6) for cx, cy, cz, radius in CEREBELLUM)
    cerebellum[tuple(places.T)] = membership(points, balls) > 0.5
    # The distance in 2 mm suffices for skin and bone.
    distance = ndimage.distance_transform_edt(~brain[::2, ::2, ::2], 2.0).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    distance = distance[: brain.shape[0], : brain.shape[1], : brain.shape[2]]
    scalp, skull = (distance > 9) & (distance < 16), (distance <= 9) & ~brain
    return _Template(read_template("gm"), read_template("wm"), brain, cerebellum, scalp, skull)


def _ratios(uptake: KnownUptake) -> Volume:
    """Uptake on the template's grid: cerebellum 1, whichever its tissue."""
    parts = _template()
    fluid = np.clip(1 - parts.grey - parts.white, 0, 1)
    ratios = uptake.cortex * parts.grey + uptake.white * parts.white + uptake.fluid * fluid
    ratios[~parts.brain] = 0
    ratios[parts.cerebellum] = 1
    ratios[parts.scalp] = uptake.head
    ratios[parts.skull] = uptake.fluid
    return np.asarray(ratios, dtype=np.float32)


def _blurred(volume: Volume) -> Volume:
    return np.asarray(ndimage.gaussian_filter(volume, FWHM_MM * _FWHM_TO_SIGMA, truncate=3.0))


def _template_affine() -> Affine:
    affine = np.eye(4)
    affine[:3, 3] = [axis[0] for axis in template_axes()]
    return affine


def _pose(rng: np.random.Generator) -> Affine:
    """From the template's millimetres to the scan's."""
    pose, centre = np.eye(4), np.array(CENTRE_MM)
    pose[:3, :3] = rotation(rng.uniform(-15, 15, 3))
    pose[:3, 3] = centre + rng.uniform(-20, 20, 3) - pose[:3, :3] @ centre
    return pose


def _field(to_scan: Affine, voxel_mm: Float[np.ndarray, " 3"]) -> tuple[Affine, tuple[int, int, int]]:
    """Voxels around the turned head."""
    brain = np.argwhere(read_template("t1")[::4, ::4, ::4] > 0) * 4.0
    places = mapped(to_scan @ _template_affine(), brain)
    lower, upper = places.min(axis=0) - _FIELD_MARGIN_MM, places.max(axis=0) + _FIELD_MARGIN_MM
    affine = np.diag([*voxel_mm, 1.0])
    affine[:3, 3] = lower
    x, y, z = (int(n) for n in np.ceil((upper - lower) / voxel_mm))
    return affine, (x, y, z)
