"""An image in a few numbers: how large the head is and where it lies, its contrast, its trends and its sharpness.

They are computed on prepared volumes (permmoe.data.volumes), where images of one modality resemble each other.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
PLACE, VALUE = 0.01, 0.02
FEATURES: dict[str, float] = {
    "head's share of the grid": PLACE,
    **{f"centre {axis}": PLACE for axis in "xyz"},
    **{f"extent {axis}": PLACE for axis in "xyz"},
    **{f"quantile {share}": VALUE for share in QUANTILES},
    **{f"trend {axis}": VALUE for axis in "xyz"},
    **{f"curvature {axis}": VALUE for axis in "xyz"},
    "steps between neighbours": VALUE,
    "roughness": VALUE,
    "outermost layer": VALUE,
    "second layer": VALUE,
    "asymmetry": VALUE,
}
"""What the numbers are, in order, and the least standard deviation that a training set is taken to have.

Lengths are shares of the grid, values are in the volume's unit. Images that were all cut out with one mask agree in
place to the last voxel; another image is not of another kind for two millimetres.
"""

FEATURES_VERSION = 1
"""Raised where the same image would give other numbers: those that are remembered are then computed anew."""

Volume = Float[np.ndarray, "x y z"]
Mask = Bool[np.ndarray, "x y z"]


def image_features(volume: Volume) -> Float[np.ndarray, " feature"]:
    """`FEATURES` of a prepared volume, one of whose voxels at least is not 0."""
    voxels = volume.astype(np.float32)
    head = voxels != 0
    values = voxels[head].astype(np.float64)
    places = np.argwhere(head) / np.array(head.shape)
    centre, extent = places.mean(0), places.std(0)
    along = (places - centre) / np.maximum(extent, 1e-6)
    contrast = values - values.mean()
    trends = along.T @ contrast / len(values)
    curvatures = (along**2 - 1).T @ contrast / len(values)
    inner = _eroded(head)
    core = _eroded(inner)
    return np.array(
        [
            head.mean(), *centre, *extent, *np.quantile(values, QUANTILES), *trends, *curvatures,
            _steps(voxels, head), _roughness(voxels, inner),
            _mean(voxels, head & ~inner), _mean(voxels, inner & ~core), _asymmetry(voxels, head),
        ],
        dtype=np.float64,
    )  # fmt: skip


def _eroded(mask: Mask) -> Mask:
    """The voxels all of whose six neighbours are in the mask."""
    inner = mask.copy()
    for axis in range(3):
        for step in (1, -1):
            inner &= np.roll(mask, step, axis)
    return inner


def _steps(voxels: Volume, head: Mask) -> float:
    """Mean absolute difference of neighbours that are both in the head."""
    steps = [
        np.abs(np.diff(voxels, axis=axis))[head.take(range(1, n), axis) & head.take(range(n - 1), axis)]
        for axis, n in enumerate(voxels.shape)
    ]
    found = np.concatenate(steps)
    return float(found.mean()) if len(found) else 0.0


def _roughness(voxels: Volume, inner: Mask) -> float:
    """Mean absolute difference of a voxel from the mean of its six neighbours, where all are in the head."""
    around = sum(np.roll(voxels, step, axis) for axis in range(3) for step in (1, -1))
    return _mean(np.abs(voxels - around / 6), inner)


def _asymmetry(voxels: Volume, head: Mask) -> float:
    """Mean absolute difference of mirrored voxels that are both in the head."""
    return _mean(np.abs(voxels - voxels[::-1]), head & head[::-1])


def _mean(voxels: Volume, where: Mask) -> float:
    found = voxels[where]
    return float(found.mean()) if len(found) else 0.0
