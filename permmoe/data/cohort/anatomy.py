"""The average brain on any voxel grid: tissue, regions, and how it gives way when tissue is lost.

Tissue is that of permmoe.data.template. Every map is sampled from it with a Gaussian in millimetres, so that two grids
see the same brain at two resolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Float32
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from permmoe.config import VolumeGrid
from permmoe.data.cohort import regions
from permmoe.data.cohort.fields import separable, spline_bases
from permmoe.data.template import Axes, read_template, template_axes
from permmoe.errors import DataError

CENTRE_MM = (0.0, -18.0, 18.0)
"""MNI point at the middle of every grid; puts 91×109×91 voxels of 2 mm exactly where FSL's MNI152 has them."""

FIELD_SPACINGS_MM = (11.0, 20.0, 28.0, 40.0)
"""Distances over which lesions, cortical thickness, shape and scanners' shading vary, in this order."""

_LEAST_REFERENCE_MM3 = 10_000.0
"""The least cerebellar grey matter that a grid must hold; the template has about six times as much."""

Bases = tuple[Float32[np.ndarray, "_ _"], Float32[np.ndarray, "_ _"], Float32[np.ndarray, "_ _"]]

CHANNELS = (
    "t1", "grey", "white", "ventricles", "periventricular", "hippocampus", "atrophy", "amyloid", "braak_i_ii",
    "braak_iii_iv", "braak_v_vi", "striatum", "choroid_plexus", "cerebellum",
)  # fmt: skip


@dataclass(frozen=True)
class Anatomy:
    """The template on one grid. `voxels` are those of the brain, in C order."""

    grid: VolumeGrid
    axes_mm: Axes
    affine: Float[np.ndarray, "4 4"]
    brain: Bool[np.ndarray, "x y z"]
    points_mm: Float32[np.ndarray, "voxels 3"]
    channels: Float32[np.ndarray, "grid_voxels channels"]
    """`CHANNELS` over the whole grid: T1 relative to 1, tissue and region fractions from 0 to 1."""
    ventricle_pull: Float32[np.ndarray, "voxels 3"]
    mesial_pull: Float32[np.ndarray, "voxels 3"]
    """Towards the inside of the ventricles, and of hippocampus and entorhinal cortex; 1 at its steepest."""
    bases: dict[float, Bases]
    """Spline bases of `FIELD_SPACINGS_MM` on this grid."""

    def channel(self, name: str) -> Float32[np.ndarray, "x y z"]:
        """One of `CHANNELS` as a volume."""
        return self.channels[:, CHANNELS.index(name)].reshape(self.grid.shape)


def grid_axes(grid: VolumeGrid) -> Axes:
    """Voxel centres along each axis, MNI millimetres, increasing (RAS)."""
    x, y, z = (
        centre + (np.arange(n) - (n - 1) / 2) * grid.spacing_mm for n, centre in zip(grid.shape, CENTRE_MM, strict=True)
    )
    return x, y, z


@lru_cache(maxsize=2)
def load_anatomy(grid: VolumeGrid) -> Anatomy:
    """Sample the template onto a grid (once a process).

    Raises DataError where nilearn's data are not installed, or where the grid misses the reference region of PET.
    """
    # One thread: the order of a sum must not depend on how many cores there are, nor on who asked first.
    with threadpool_limits(1):
        return _sampled(grid)


def _sampled(grid: VolumeGrid) -> Anatomy:
    axes = grid_axes(grid)
    affine = np.diag([grid.spacing_mm] * 3 + [1.0])
    affine[:3, 3] = [axis[0] for axis in axes]
    tissue = {name: read_template(name) for name in ("t1", "gm", "wm")}
    source_axes = template_axes()
    on_grid = _gaussian_matrices(source_axes, axes, max(0.45 * grid.spacing_mm, 0.7))
    t1, grey, white = (separable(tissue[name], on_grid) for name in ("t1", "gm", "wm"))
    head = separable((tissue["t1"] > 0).astype(np.float32), on_grid)
    brain = (head > 0.5) & (t1 > 0.05)

    coarse_axes = (source_axes[0][::2], source_axes[1][::2], source_axes[2][::2])
    coarse = {name: volume[::2, ::2, ::2] for name, volume in tissue.items()}
    points = _points(coarse_axes)
    fluid = np.clip(1 - coarse["gm"] - coarse["wm"], 0, 1) * (coarse["t1"] > 0)
    cavity = fluid * regions.membership(points, regions.VENTRICLES).reshape(fluid.shape)
    mesial_balls = (*regions.HIPPOCAMPUS, *regions.ENTORHINAL)
    mesial = coarse["gm"] * regions.membership(points, mesial_balls).reshape(fluid.shape)
    ventricles = separable(cavity, _gaussian_matrices(coarse_axes, axes, max(0.45 * grid.spacing_mm, 1.4)))
    near_ventricles = separable(cavity, _gaussian_matrices(coarse_axes, axes, 5.0))

    everywhere = _points(axes)

    def region(balls: tuple[regions.Ball, ...]) -> Float32[np.ndarray, "x y z"]:
        return regions.membership(everywhere, balls).reshape(grid.shape)

    cerebellum = region(regions.CEREBELLUM)
    if min(grid.shape) < 2 or (cerebellum * grey)[brain].sum() * grid.spacing_mm**3 < _LEAST_REFERENCE_MM3:
        raise DataError(
            f"a grid of {'×'.join(map(str, grid.shape))} voxels of {grid.spacing_mm:g} mm does not cover the brain; "
            "use 48×56×48 of 4 mm, 91×109×91 of 2 mm, or another of about 180×220×180 mm"
        )
    cortex = grey * (1 - cerebellum)
    maps = {
        "t1": t1,
        "grey": grey,
        "white": white,
        "ventricles": np.clip(ventricles * 1.3, 0, 1),
        "periventricular": np.clip(near_ventricles / 0.25, 0, 1) * white * (1 - cerebellum),
        "hippocampus": region(regions.HIPPOCAMPUS) * grey,
        "atrophy": region(regions.ATROPHY_CORTEX) * cortex,
        "amyloid": region(regions.AMYLOID_CORTEX) * cortex,
        "braak_i_ii": region(regions.BRAAK_I_II) * cortex,
        "braak_iii_iv": region(regions.BRAAK_III_IV) * cortex,
        "braak_v_vi": region(regions.BRAAK_V_VI) * cortex,
        "striatum": region(regions.STRIATUM) * np.clip(grey + 0.3, 0, 1),
        "choroid_plexus": region(regions.CHOROID_PLEXUS),
        "cerebellum": cerebellum * grey,
    }
    return Anatomy(
        grid=grid,
        axes_mm=axes,
        affine=affine,
        brain=brain,
        points_mm=everywhere[brain.reshape(-1)].astype(np.float32),
        channels=np.stack([maps[name].reshape(-1) for name in CHANNELS], axis=1),
        ventricle_pull=_pull(cavity, coarse_axes, axes, reach_mm=6.0, steepest=0.16)[brain],
        mesial_pull=_pull(mesial, coarse_axes, axes, reach_mm=4.0, steepest=0.26)[brain],
        bases={spacing: spline_bases(axes, spacing) for spacing in FIELD_SPACINGS_MM},
    )


def _gaussian_matrices(source: Axes, target: Axes, sigma_mm: float, slope_axis: int | None = None) -> Bases:
    """Matrices that sample a smoothed map at target points; along `slope_axis`, sample its derivative times sigma."""
    x, y, z = (
        _gaussian(s, t, sigma_mm, is_slope=axis == slope_axis)
        for axis, (s, t) in enumerate(zip(source, target, strict=True))
    )
    return x, y, z


def _gaussian(
    source: Float[np.ndarray, " n"], target: Float[np.ndarray, " m"], sigma_mm: float, *, is_slope: bool
) -> Float32[np.ndarray, "m n"]:
    t = (source - target[:, None]) / sigma_mm
    kernel = np.exp(-(t**2) / 2) * ((source[1] - source[0]) / (sigma_mm * np.sqrt(2 * np.pi)))
    return np.asarray(kernel * t if is_slope else kernel, np.float32)


def _pull(
    mask: Float32[np.ndarray, "i j k"], source: Axes, target: Axes, reach_mm: float, steepest: float
) -> Float32[np.ndarray, "x y z 3"]:
    """Where a structure lies from each voxel: the gradient of its smoothed mask, its longest vector about 1."""
    slopes = [separable(mask, _gaussian_matrices(source, target, reach_mm, axis)) for axis in range(3)]
    return np.stack(slopes, axis=-1) / np.float32(steepest)


def _points(axes: Axes) -> Float[np.ndarray, "points 3"]:
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
