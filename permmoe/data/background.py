"""Find an image's background, the air around a head, and set it to exactly 0: what is not 0 is then the head.

A background is seldom exactly 0 in a file: air is noisy, resamplers leave 1e-15, and a scale of 16-bit integers that
has to reach a negative voxel gives zeros back as a fraction. Its level and its noise are read from the corners of the
image, which no head reaches; the five darkest of the eight are believed, so that three may hold a neck or a table.
Background is then whatever is no brighter than that, allowing for noise, and reaches the edge of the image through such
voxels: fluid inside a head may be as dark and stays. Specks in the air that exceed the noise go, too.

An image whose corners are exactly 0 is left as it is, to the last bit.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32

CORNER_SHARE = 8
"""A corner is this part of the image's width, depth and height."""
BELIEVED_CORNERS = 5
NOISE_QUANTILE, NOISE_DEVIATIONS = 0.9, 1.2816
"""This quantile of normal noise lies so many standard deviations above its median."""
NOISE_MARGIN = 6.0
"""Background is within so many standard deviations of its level."""
ROUNDING = 1e-6
"""Differences below this share of the image's range are rounding."""
LARGEST_SHARE = 0.2
"""What exceeds this share of the image's range is no background: the field of view ends inside the head."""
SMALLEST_PIECE = 0.01
"""Pieces with less than this share of the head's voxels are specks."""

Volume = Float32[np.ndarray, "x y z"]


def without_background(voxels: Volume) -> Volume:
    """The image with its background set to 0; the same array where that is 0 already, or where none is found."""
    level, noise = _corner_level(voxels)
    if level == 0 and noise == 0:
        return voxels
    span = float(np.quantile(np.abs(voxels), 0.99))
    margin = NOISE_MARGIN * noise + ROUNDING * span
    if abs(level) + margin > LARGEST_SHARE * span:
        return voxels
    is_dark = (voxels >= min(level, 0.0) - margin) & (voxels <= max(level, 0.0) + margin)
    return np.where(_head(is_dark), voxels, np.float32(0))


def _corner_level(voxels: Volume) -> tuple[float, float]:
    """Level and standard deviation in the darkest corners, padding of zeros cut off."""
    filled = voxels[_bounding_box(voxels != 0)]
    widths = [max(1, n // CORNER_SHARE) for n in filled.shape]
    ends = [(slice(None, width), slice(-width, None)) for width in widths]
    corners = [filled[x, y, z] for x in ends[0] for y in ends[1] for z in ends[2]]
    darkest = sorted(corners, key=lambda corner: float(np.quantile(corner, NOISE_QUANTILE)))[:BELIEVED_CORNERS]
    level, high = np.quantile(np.concatenate([corner.ravel() for corner in darkest]), (0.5, NOISE_QUANTILE))
    return float(level), float(high - level) / NOISE_DEVIATIONS


def _bounding_box(is_filled: Bool[np.ndarray, "x y z"]) -> tuple[slice, ...]:
    """The smallest box with every filled voxel in it, of which there must be one."""
    spans = []
    for axis in range(3):
        along = np.flatnonzero(is_filled.any(axis=tuple({0, 1, 2} - {axis})))
        spans.append(slice(int(along[0]), int(along[-1]) + 1))
    return tuple(spans)


def _head(is_dark: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """All that dark voxels do not join to the edge of the image, but for specks."""
    # Imported late: most images have a background of exactly 0 and never come here.
    from scipy import ndimage

    # A frame of dark voxels joins all that reaches an edge into one piece, the first.
    pieces, _ = ndimage.label(np.pad(is_dark, 1, constant_values=True))
    head = (pieces != pieces[0, 0, 0])[1:-1, 1:-1, 1:-1]
    pieces, _ = ndimage.label(head)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    is_kept: Bool[np.ndarray, " piece"] = sizes >= max(1.0, SMALLEST_PIECE * sizes.max())
    kept: Bool[np.ndarray, "x y z"] = is_kept[pieces]
    return kept
