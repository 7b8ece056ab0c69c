"""How a head lies in a scanner: maps between the scanner's millimetres and the template's."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from permmoe.data.cohort.anatomy import CENTRE_MM

Matrix = Float[np.ndarray, "4 4"]

LARGEST_TURN_DEGREES = 15.0
LARGEST_SHIFT_MM = 20.0
_MEAN_SIZE, _SIZE_SPREAD, _ASPECT_SPREAD = 0.93, 0.025, 0.012
"""Of a person's head against the template, which is larger than most people's; along each axis a little different."""
_MOTION_DEGREES, _MOTION_MM = 0.4, 0.6
"""SD of how a head moves from one frame to the next."""


def draw_size(rng: np.random.Generator) -> Matrix:
    """From the template's millimetres to those of a person of another size, about the brain's middle."""
    factor = rng.normal(_MEAN_SIZE, _SIZE_SPREAD) * rng.normal(1, _ASPECT_SPREAD, 3)
    return _about_centre(np.diag(factor), np.zeros(3))


def draw_pose(rng: np.random.Generator) -> Matrix:
    """A rigid map from the person's millimetres to a scanner's: the head turned and shifted, no two scans alike."""
    degrees = rng.uniform(-LARGEST_TURN_DEGREES, LARGEST_TURN_DEGREES, 3)
    return _about_centre(rotation(degrees), rng.uniform(-LARGEST_SHIFT_MM, LARGEST_SHIFT_MM, 3))


def draw_motion(rng: np.random.Generator) -> Matrix:
    """A small rigid map of the person's millimetres: how far a head went since the frame before."""
    return _about_centre(rotation(rng.normal(0, _MOTION_DEGREES, 3)), rng.normal(0, _MOTION_MM, 3))


def mapped(matrix: Matrix, points_mm: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Points moved by an affine map."""
    return np.asarray(points_mm @ matrix[:3, :3].T + matrix[:3, 3])


def rotation(degrees: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """About x, then y, then z, each counter-clockwise as seen from its positive end."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[i, j, i, j], [i, j, j, i]] = np.cos(angle), np.cos(angle), -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _about_centre(linear: Float[np.ndarray, "3 3"], shift_mm: Float[np.ndarray, " 3"]) -> Matrix:
    matrix, centre = np.eye(4), np.array(CENTRE_MM)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre + shift_mm - linear @ centre
    return matrix
