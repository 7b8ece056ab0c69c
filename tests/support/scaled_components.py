"""What textbook ridge is computed from where every visit is complete: scaled principal components of a modality."""

from __future__ import annotations

import numpy as np


def scaled_components(x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The features `x` of training visits and `z` of others, centred and in the basis of permmoe.layers.ridge."""
    _, singular, directions = np.linalg.svd(x - x.mean(0), full_matrices=False)
    deviation = singular / np.sqrt(len(x))
    kept = deviation**2 > 1e-6 * deviation[0] ** 2
    basis = directions[kept].T / np.sqrt(deviation[kept] * np.sqrt((deviation[kept] ** 2).sum()))
    return (x - x.mean(0)) @ basis, (z - x.mean(0)) @ basis
