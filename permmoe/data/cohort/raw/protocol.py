"""What each kind of scan looks like: tissue's signal, voxels, axes and field of view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from permmoe.data.cohort.raw.head import Tissue
from permmoe.data.cohort.raw.pose import Matrix, mapped, rotation
from permmoe.data.cohort.settings import ImageModality


@dataclass(frozen=True)
class Protocol:
    """A kind of scan."""

    description: str
    """As a scanner names the series."""
    signal: Mapping[Tissue, float]
    """Around the brain; MRI against white matter, PET against cerebellar grey matter."""
    voxel_mm: tuple[tuple[float, float, float], ...]
    """Along the voxel axes; a scan has one of them."""
    axes: tuple[str, ...]
    """Where the voxel axes may point to, as nibabel's codes; the last is that of the slices."""
    neck_mm: tuple[float, float]
    """How far below the brain the field of view ends, from and to."""
    tilt_degrees: float
    """The largest angle of the voxel axes against the scanner's."""


_T1 = {
    Tissue.FLUID: 0.22, Tissue.BONE: 0.08, Tissue.MARROW: 0.75, Tissue.FAT: 1.30, Tissue.SKIN: 0.60,
    Tissue.MUSCLE: 0.50, Tissue.EYE: 0.18, Tissue.MUCOSA: 0.60, Tissue.CORD: 0.85,
}  # fmt: skip
_FLAIR = {
    Tissue.FLUID: 0.12, Tissue.BONE: 0.06, Tissue.MARROW: 0.45, Tissue.FAT: 0.90, Tissue.SKIN: 0.50,
    Tissue.MUSCLE: 0.38, Tissue.EYE: 0.10, Tissue.MUCOSA: 0.75, Tissue.CORD: 0.55,
}  # fmt: skip
_AMYLOID = {
    Tissue.FLUID: 0.50, Tissue.BONE: 0.45, Tissue.MARROW: 0.60, Tissue.FAT: 0.20, Tissue.SKIN: 0.40,
    Tissue.MUSCLE: 0.45, Tissue.EYE: 0.35, Tissue.MUCOSA: 0.80, Tissue.CORD: 1.20,
}  # fmt: skip
_TAU = {
    Tissue.FLUID: 0.55, Tissue.BONE: 0.55, Tissue.MARROW: 0.65, Tissue.FAT: 0.20, Tissue.SKIN: 0.45,
    Tissue.MUSCLE: 0.45, Tissue.EYE: 0.60, Tissue.MUCOSA: 0.70, Tissue.CORD: 0.90,
}  # fmt: skip

_PET_VOXELS = ((2.0, 2.0, 3.0),)
_PET_AXES = ("LAS", "RAS", "LPS", "LAI")

PROTOCOLS: Mapping[ImageModality, Protocol] = {
    "t1": Protocol(
        "Sagittal 3D MPRAGE", _T1, ((1.0, 1.0, 1.2),), ("PSR", "ASR", "PIL", "PIR", "PSL"), (15.0, 80.0), 6.0
    ),
    "flair": Protocol(
        "Axial T2 FLAIR", _FLAIR, ((1.0, 1.0, 3.0), (1.0, 1.0, 4.0), (1.0, 1.0, 5.0)), ("LAS", "RAS", "LPS", "RPS"),
        (2.0, 20.0), 10.0,
    ),
    "amyloid": Protocol("Amyloid PET 4x5min AC", _AMYLOID, _PET_VOXELS, _PET_AXES, (20.0, 60.0), 0.0),
    "tau": Protocol("Tau PET 4x5min AC", _TAU, _PET_VOXELS, _PET_AXES, (20.0, 60.0), 0.0),
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """The voxels of one scan in the scanner's millimetres."""

    affine: Matrix
    shape: tuple[int, int, int]


def draw_field(
    protocol: Protocol,
    head_mm: Float[np.ndarray, "n 3"],
    brain_bottom_mm: float,
    to_scanner: Matrix,
    rng: np.random.Generator,
) -> Field:
    """Voxels around a head, from some millimetres of air above it to somewhere in the neck.

    `head_mm` and `brain_bottom_mm` are the template's; `to_scanner` takes them to the scanner's.
    """
    voxel_mm = protocol.voxel_mm[int(rng.integers(len(protocol.voxel_mm)))]
    axes = protocol.axes[int(rng.integers(len(protocol.axes)))]
    tilt = rotation(rng.uniform(-protocol.tilt_degrees, protocol.tilt_degrees, 3))
    # In the axes of the tilted voxels; what hangs below the brain shall not widen the field.
    places = mapped(to_scanner, head_mm[head_mm[:, 2] > brain_bottom_mm - 10]) @ tilt
    bottom = mapped(to_scanner, head_mm[head_mm[:, 2] > brain_bottom_mm]) @ tilt
    lower, upper = places.min(axis=0) - rng.uniform(2, 8, 3), places.max(axis=0) + rng.uniform(2, 8, 3)
    lower[2] = bottom[:, 2].min() - rng.uniform(*protocol.neck_mm)
    directions, near = np.empty((3, 3)), np.empty(3)
    counts: list[int] = []
    for voxel_axis, (code, spacing) in enumerate(zip(axes, voxel_mm, strict=True)):
        axis = next(i for i, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        points_up = code in "RAS"
        counts.append(int(np.ceil((upper[axis] - lower[axis]) / spacing)))
        directions[:, voxel_axis] = tilt[:, axis] * (spacing if points_up else -spacing)
        near[axis] = lower[axis] + spacing / 2 if points_up else lower[axis] + (counts[-1] - 0.5) * spacing
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions, tilt @ near
    return Field(affine, (counts[0], counts[1], counts[2]))
