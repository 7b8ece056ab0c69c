"""From a head to the numbers in a file: where its voxels lie, the coil's shading, noise and counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int16
from scipy import ndimage

from permmoe.data.cohort.raw.head import AXES_MM, SPACING_MM
from permmoe.data.cohort.raw.pose import Matrix
from permmoe.data.cohort.raw.protocol import Field

LARGEST_SHADING = 0.25
"""By how much the coil's sensitivity departs from its mean; the site's own shading is in the brain already."""
MRI_NOISE = 2.0
"""Noise of a raw voxel against one of the ordinary cohort's, which is many times larger and averages it away."""
_STEPS_OF_NOISE = 4.0
"""Integers in a standard deviation of the noise: finer ones would only fill the disk."""
_WIDEST_STEP = 1.75
"""Between two samples of one voxel, in voxels of the head."""
_PET_GRAIN_SIGMA_MM = 3.2

Volume = Float32[np.ndarray, "x y z"]

HEAD_AFFINE: Matrix = np.diag([SPACING_MM] * 3 + [1.0])
HEAD_AFFINE[:3, 3] = [axis[0] for axis in AXES_MM]


@dataclass(frozen=True)
class Acquired:
    """The numbers of one scan."""

    integers: Int16[np.ndarray, "x y z frames"]
    slope: float
    """Of one integer, in the scan's unit."""
    affine: Matrix


def sampled(head: Float32[np.ndarray, "i j k"], field: Field, to_template: Matrix) -> Volume:
    """The head's mean over each voxel of a field, from samples close enough to skip nothing; air beyond the head."""
    to_head = np.linalg.inv(HEAD_AFFINE) @ to_template @ field.affine
    times = np.ceil(np.linalg.norm(to_head[:3, :3], axis=0) / _WIDEST_STEP).astype(int)
    matrix = to_head[:3, :3] / times
    first = to_head[:3, 3] + to_head[:3, :3] @ ((1 / times - 1) / 2)
    fine = ndimage.affine_transform(head, matrix, first, output_shape=tuple(field.shape * times), order=1)
    (x, y, z), (i, j, k) = field.shape, times.tolist()
    return np.asarray(fine.reshape(x, i, y, j, z, k).mean(axis=(1, 3, 5), dtype=np.float32))


def magnetic(signal: Volume, field: Field, noise: float, gain: float, rng: np.random.Generator) -> Acquired:
    """An MRI: shading, magnitude (Rician) noise of SD `noise` where white matter is 1, and the scanner's gain."""
    shaded = signal * _shading(field.shape, float(rng.uniform(0.3, 1) * LARGEST_SHADING), rng)
    real, imaginary = np.float32(noise) * rng.standard_normal((2, *field.shape), dtype=np.float32)
    magnitude = np.hypot(shaded + real, imaginary)
    step = noise / _STEPS_OF_NOISE if noise > 0 else float(magnitude.max()) / 1000
    integers = np.round(magnitude / np.float32(step)).clip(0, 32767).astype(np.int16)
    return Acquired(integers[..., None], step * gain, field.affine)


def counted(
    frames: Sequence[Volume], field: Field, noise: float, bq_per_ml: float, rng: np.random.Generator
) -> Acquired:
    """A PET scan of ratios: grainy noise that grows with uptake (SD `noise` where all frames' mean is 1), and Bq/ml."""
    spacing = np.linalg.norm(field.affine[:3, :3], axis=0)
    noisy = [frame + np.float32(noise * np.sqrt(len(frames))) * _grain(spacing, frame, rng) for frame in frames]
    ratios = np.clip(np.stack(noisy, axis=-1), 0, None)
    step = 0.02
    return Acquired(np.round(ratios / np.float32(step)).astype(np.int16), step * bq_per_ml, field.affine)


def _grain(spacing_mm: np.ndarray, frame: Volume, rng: np.random.Generator) -> Volume:
    white = rng.standard_normal(frame.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(white, _PET_GRAIN_SIGMA_MM / spacing_mm, truncate=3.0)
    return np.asarray(grain / grain.std() * np.sqrt(np.clip(frame, 0.02, None)))


def _shading(shape: tuple[int, int, int], largest: float, rng: np.random.Generator) -> Volume:
    """A smooth field that departs from 1 by at most `largest`."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    terms = (x, y, z, x * y, y * z, x * z, x * x, y * y, z * z)
    weights = rng.standard_normal(len(terms)).astype(np.float32)
    field = sum((weight * term for weight, term in zip(weights, terms, strict=True)), np.zeros(shape, np.float32))
    field -= field.mean()
    return np.asarray(1 + np.float32(largest) * field / np.abs(field).max())
