"""Where preparations put points of the brain: what their errors are measured with."""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from permmoe.data.cohort.raw.pose import mapped
from permmoe.data.template import read_template
from permmoe.preparation.images.image import Matrix

DISPLACEMENTS_MM = (2.0, 5.0, 8.0, 12.0, 20.0, 40.0)
"""By which sound preparations are moved, and turned by as many degrees, so that there are failures to find."""


@cache
def brain_points() -> Float[np.ndarray, "point 3"]:
    """Points of the template's brain, mm."""
    return np.asarray(np.argwhere(read_template("t1") > 0)[::500] - np.array([98.0, 134.0, 72.0]))


def errors_mm(one: Matrix, other: Matrix) -> Float[np.ndarray, " point"]:
    """How far two maps take each point apart."""
    points = brain_points()
    return np.asarray(np.linalg.norm(mapped(one, points) - mapped(other, points), axis=1))


def displacement(by: float, seed: int) -> Matrix:
    """A map that is off by so many millimetres and degrees, in a drawn direction."""
    rng = np.random.default_rng([seed, round(by)])
    axis, direction = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
    wrong = np.eye(4)
    wrong[:3, :3] = Rotation.from_rotvec(np.deg2rad(by) * axis).as_matrix()
    wrong[:3, 3] = by * direction
    return wrong
