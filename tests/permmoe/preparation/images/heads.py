"""A small, quick stand-in for a head: the template's brain in another pose, coarsely sampled."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from permmoe.data.template import read_template
from permmoe.preparation.images.image import Image, Matrix, isotropic, onto, template_image


def pose(degrees: tuple[float, float, float], shift_mm: tuple[float, float, float], scale: float = 1.0) -> Matrix:
    """A map from the template's millimetres to those of a scanner in which the head is turned and moved."""
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


def posed(brain: Image, template_to_scan: Matrix, spacing_mm: float = 3.0) -> Image:
    """The brain as a scan of that pose, on a straight field that holds it."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in brain.voxels.shape])).reshape(3, -1).T
    places = np.c_[corners, np.ones(8)] @ (template_to_scan @ brain.affine).T
    low, high = places[:, :3].min(0), places[:, :3].max(0)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = low
    shape = tuple(int(n) for n in np.ceil((high - low) / spacing_mm) + 1)
    return onto(brain, Image(np.zeros(shape, np.float32), affine), np.linalg.inv(template_to_scan))


def template_brain(spacing_mm: float = 2.0) -> Image:
    """The template's T1."""
    return isotropic(template_image(read_template("t1")), spacing_mm)


def distances_mm(found: Matrix, true: Matrix) -> np.ndarray:
    """How far points of the brain end from where they belong."""
    grid = np.array(np.meshgrid([-50, 0, 50], [-90, -20, 50], [-30, 10, 60])).reshape(3, -1).T
    points = np.c_[grid, np.ones(len(grid))]
    return np.asarray(np.linalg.norm((points @ (found - true).T)[:, :3], axis=1))
