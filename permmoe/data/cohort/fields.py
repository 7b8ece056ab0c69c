"""Smooth random fields that are defined in millimetres, and so are the same on every voxel grid.

A field is a cubic B-spline on a control lattice fixed in MNI space; a voxel grid only evaluates it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

LOWER_MM = (-112.0, -148.0, -92.0)
UPPER_MM = (112.0, 112.0, 128.0)
"""The box, in MNI millimetres, over which fields are defined; every head fits."""

_MEAN_SQUARE = 151 / 315
"""Mean over x of Σ_j β³(x − j)²: what an axis keeps of the coefficients' variance."""


def draw_coefficients(rng: np.random.Generator, spacing_mm: float) -> Float32[np.ndarray, "x y z"]:
    """Control values whose field has mean 0, standard deviation 1 and detail of about `spacing_mm`."""
    shape = [len(_control_points(axis, spacing_mm)) for axis in range(3)]
    return rng.standard_normal(shape, dtype=np.float32) / np.float32(_MEAN_SQUARE**1.5)


def spline_bases(
    axes_mm: tuple[Float[np.ndarray, " x"], Float[np.ndarray, " y"], Float[np.ndarray, " z"]], spacing_mm: float
) -> tuple[Float32[np.ndarray, "x i"], Float32[np.ndarray, "y j"], Float32[np.ndarray, "z k"]]:
    """For each axis of a voxel grid, the weight of each control point at each voxel centre."""
    x, y, z = (_basis(mm, _control_points(axis, spacing_mm), spacing_mm) for axis, mm in enumerate(axes_mm))
    return x, y, z


def separable(
    values: Float32[np.ndarray, "i j k"],
    matrices: tuple[Float32[np.ndarray, "x i"], Float32[np.ndarray, "y j"], Float32[np.ndarray, "z k"]],
) -> Float32[np.ndarray, "x y z"]:
    """Apply one matrix along each axis: evaluates a field on a grid, or resamples a map onto it."""
    on_x, on_y, on_z = matrices
    partial = values @ on_z.T
    partial = on_y @ partial
    return np.asarray(np.tensordot(on_x, partial, axes=(1, 0)))


def _control_points(axis: int, spacing_mm: float) -> Float[np.ndarray, " n"]:
    margin = 2 * spacing_mm
    return np.arange(LOWER_MM[axis] - margin, UPPER_MM[axis] + margin + spacing_mm / 2, spacing_mm)


def _basis(
    mm: Float[np.ndarray, " n"], control_mm: Float[np.ndarray, " m"], spacing_mm: float
) -> Float32[np.ndarray, "n m"]:
    t = np.abs(mm[:, None] - control_mm) / spacing_mm
    inner, outer = 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6
    return np.asarray(np.where(t < 1, inner, outer), np.float32)
