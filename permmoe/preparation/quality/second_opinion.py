"""Place an image anew, by other means than the registration did, and say how far the two disagree.

A registration that ends in a wrong place has a good value of its own cost there, so another cost has to judge it. Here
an image counts as well placed where grey matter, white matter and fluid of a reference explain most of its squares: a
linear combination of the three is fitted, so that it suits T1, FLAIR and PET alike. All places of a lattice are tried
at once by Fourier transforms, under turns and scalings that cover the ways in which registrations go wrong (upside
down and back to front among them); the best one is then refined by Gauss and Newton's method, as an affine transform.

All of it is done at `STEP_MM`, where a fraction of a second suffices and an answer is good to about 2 mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64
from scipy import fft, ndimage

from permmoe.config import VolumeGrid
from permmoe.data.volumes import grid_affine

STEP_MM = 8.0
FIRST_MM = np.array([-108.0, -148.0, -100.0])
"""Where the lattice begins: the brain and three centimetres around it lie in it, the middle plane in its middle."""
SHAPE = (28, 34, 28)
COARSE = 2
"""The search is done on cubes of so many steps."""
FIRST_CUBE_MM = FIRST_MM + STEP_MM * (COARSE - 1) / 2
PADDED = (20, 24, 20)
"""Room for shifts in Fourier transforms, in cubes."""
CENTRE_MM = np.array([0.0, -20.0, 10.0])
"""What images are turned about: about the template brain's centre."""
LONGEST_SHIFT_MM = 48.0
TURNS_DEGREES = (-30.0, -15.0, 15.0, 30.0)
SCALES = (0.8, 1.25)
CLEAR_GAIN = 0.01
"""Another place is believed where it explains so much more of an image's squares."""
ITERATIONS = 12
FIRST_DAMPING = 1e-3
SETTLED = 1e-4
"""Steps end when they explain less than this more, relatively."""
LENGTH_MM = 50.0
"""Shifts are counted in this length, so that they weigh about as much as turns."""

Lattice = Float32[np.ndarray, "28 34 28"]
Tissues = Float32[np.ndarray, "tissue 28 34 28"]
Cubes = Float32[np.ndarray, "tissue 14 17 14"]
Affine = Float64[np.ndarray, "4 4"]


@dataclass(frozen=True)
class SecondOpinion:
    """How well a reference explains an image where it lies, and where it would explain it best."""

    fit: float
    """Share of the image's squares that the reference explains where the image lies, 0 to 1."""
    best_fit: float
    best_contrast: float
    """Of what the reference's outline leaves unexplained at the better place, the share that its tissues explain.

    Near 0 for what has a brain's outline and no brain in it.
    """
    disagreement_mm: float
    """Mean distance of the brain's points from where the template has them, if the better place is right."""
    turn_degrees: float
    """The angle by which the better place is turned; 180 for an image that lies upside down."""


def on_lattice(volume: Float32[np.ndarray, "x y z"], grid: VolumeGrid) -> Lattice:
    """A volume on a grid, smoothed and sampled at the lattice."""
    smooth = ndimage.gaussian_filter(volume, 0.42 * STEP_MM / grid.spacing_mm, truncate=3)
    offset = (FIRST_MM - grid_affine(grid)[:3, 3]) / grid.spacing_mm
    sampled: Lattice = ndimage.affine_transform(
        smooth, np.full(3, STEP_MM / grid.spacing_mm), offset, output_shape=SHAPE, order=1
    )
    return sampled


def second_opinion(image: Lattice, tissues: Tissues) -> SecondOpinion:
    """Place an image by a reference's tissues. An image of zeros is explained by nothing and disagrees with nothing."""
    brain = tissues.sum(0) > 0.5
    energy = float((image.astype(np.float64) ** 2).sum())
    if energy == 0:
        return SecondOpinion(0.0, 0.0, 0.0, 0.0, 0.0)
    here = _explained(image, tissues)
    place, best = _best_place(image, tissues)
    if best <= here:
        place, best = np.eye(4), here
    by_outline = _explained(image, _moved(tissues, place).sum(0, keepdims=True))
    points = FIRST_MM + STEP_MM * np.argwhere(brain)
    to_image = np.linalg.inv(place)
    moved = points @ to_image[:3, :3].T + to_image[:3, 3]
    return SecondOpinion(
        fit=here / energy,
        best_fit=best / energy,
        best_contrast=(best - by_outline) / max(energy - by_outline, 1e-12),
        disagreement_mm=float(np.linalg.norm(moved - points, axis=1).mean()),
        turn_degrees=turn_degrees(place[:3, :3]),
    )


def turn_degrees(linear: Float[np.ndarray, "3 3"]) -> float:
    """The angle of the rotation that is nearest to a linear map without reflection."""
    left, _, right = np.linalg.svd(linear)
    return float(np.degrees(np.arccos(np.clip((np.trace(left @ right) - 1) / 2, -1, 1))))


def _best_place(image: Lattice, tissues: Tissues) -> tuple[Affine, float]:
    """Where the tissues explain most, and how much; of two places that explain about as much, the nearer one."""
    near, by_near = _refined(image, tissues, np.eye(4))
    start = _searched(image, tissues)
    if np.array_equal(start, np.eye(4)):
        return near, by_near
    far, by_far = _refined(image, tissues, start)
    return (far, by_far) if by_far > by_near * (1 + CLEAR_GAIN) else (near, by_near)


def _searched(image: Lattice, tissues: Tissues) -> Affine:
    """The best of all shifts under each of the turns and scalings."""
    spectrum = fft.rfftn(_cubes(image[None])[0], PADDED)
    best, found = -1.0, np.eye(4)
    cubes = _cubes(tissues)
    for linear in _attitudes():
        turned = _orthonormal(_moved(cubes, _about_centre(linear), COARSE * STEP_MM, FIRST_CUBE_MM))
        products = spectrum * np.conj(fft.rfftn(turned, PADDED, axes=(1, 2, 3)))
        explained = np.where(_is_short_shift(), (fft.irfftn(products, PADDED, axes=(1, 2, 3)) ** 2).sum(0), -1)
        peak = np.unravel_index(explained.argmax(), PADDED)
        if explained[peak] > best:
            best = float(explained[peak])
            steps = np.array([_signed_steps(n)[k] for n, k in zip(PADDED, peak, strict=True)])
            found = _about_centre(linear) @ _shift(-STEP_MM * COARSE * steps)
    return found


def _refined(image: Lattice, tissues: Tissues, start: Affine) -> tuple[Affine, float]:
    """Steps of Gauss and Newton, damped after Marquardt, for as long as they explain more; and how much that is.

    It is the tissues that are moved, so that the sum of squares to explain stays the same.
    """
    place, there = start, _moved(tissues, start)
    best, damping = _explained(image, there), FIRST_DAMPING
    slopes = np.stack(np.gradient(tissues, STEP_MM, axis=(1, 2, 3)))
    for _ in range(ITERATIONS):
        proposed = _step(image, there, slopes, place, damping)
        moved = _moved(tissues, proposed)
        explained = _explained(image, moved)
        if explained <= best:
            damping *= 16
            if damping > 1:
                break
            continue
        is_settled = explained < best * (1 + SETTLED)
        place, there, best, damping = proposed, moved, explained, damping / 4
        if is_settled:
            break
    return place, best


def _step(
    image: Lattice, there: Tissues, slopes: Float32[np.ndarray, "axis tissue 28 34 28"], place: Affine, damping: float
) -> Affine:
    """The affine map after one step; `there` are the tissues at `place`, `slopes` their gradients where they lie."""
    basis = there.reshape(len(there), -1).T.astype(np.float64)
    wanted = image.ravel().astype(np.float64)
    weights, *_ = np.linalg.lstsq(basis, wanted, rcond=1e-6)
    slope = _moved(np.tensordot(slopes, weights.astype(np.float32), (1, 0)), place).reshape(3, -1).T
    ways = (slope[:, :, None] * _coordinates()[:, None, :]).reshape(-1, 12)
    # What other weights would explain as well is no reason to move.
    orthogonal, _ = np.linalg.qr(basis)
    ways = ways - orthogonal @ (orthogonal.T @ ways)
    normal = ways.T @ ways
    damped = normal + damping * np.diag(np.diag(normal) + 1e-12)
    step = np.linalg.solve(damped, ways.T @ (wanted - basis @ weights)).reshape(3, 4)
    proposed = place.copy()
    proposed[:3, :3] += step[:, :3]
    proposed[:3, 3] += LENGTH_MM * step[:, 3] - step[:, :3] @ CENTRE_MM
    return proposed


def _explained(image: Lattice, tissues: Tissues) -> float:
    """The sum of an image's squares that a linear combination of the tissues explains."""
    return float(((_orthonormal(tissues).reshape(len(tissues), -1) @ image.ravel()) ** 2).sum())


def _orthonormal(tissues: Float32[np.ndarray, "tissue a b c"]) -> Float32[np.ndarray, "tissue a b c"]:
    """Combinations of the tissues that are orthonormal; zeros in place of what has no extent."""
    flat = tissues.reshape(len(tissues), -1).astype(np.float64)
    sizes, ways = np.linalg.eigh(flat @ flat.T)
    is_there = sizes > 1e-6 * max(float(sizes[-1]), 1e-12)
    scales = np.where(is_there, 1 / np.sqrt(np.maximum(sizes, 1e-12)), 0)
    combined: Float64[np.ndarray, "tissue a b c"] = ((scales[:, None] * ways.T) @ flat).reshape(tissues.shape)
    return combined.astype(np.float32)


def _moved(
    tissues: Float32[np.ndarray, "tissue a b c"],
    place: Affine,
    step_mm: float = STEP_MM,
    first_mm: Float64[np.ndarray, " axis"] = FIRST_MM,
) -> Float32[np.ndarray, "tissue a b c"]:
    """The tissues read at `place` of every point of their lattice; 0 beyond their field."""
    linear = place[:3, :3]
    offset = (linear @ first_mm + place[:3, 3] - first_mm) / step_mm
    moved: Float32[np.ndarray, "tissue a b c"] = np.stack(
        [ndimage.affine_transform(tissue, linear, offset, order=1) for tissue in tissues]
    )
    return moved


def _cubes(volumes: Tissues) -> Cubes:
    """Means over cubes of the lattice."""
    x, y, z = (n // COARSE for n in SHAPE)
    means: Cubes = volumes.reshape(-1, x, COARSE, y, COARSE, z, COARSE).mean((2, 4, 6))
    return means


@cache
def _attitudes() -> tuple[Float64[np.ndarray, "3 3"], ...]:
    """The turns and scalings under which places are searched: a cube's 24 turns, smaller turns, smaller and larger."""
    orders = [
        (np.eye(3)[list(order)], signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)
    ]
    cube = [order * np.array(signs, dtype=np.float64)[:, None] for order, signs in orders]
    turns = [_turn(axis, degrees) for axis in range(3) for degrees in TURNS_DEGREES]
    scales = [np.diag(np.where(np.arange(3) == axis, scale, 1.0)) for scale in SCALES for axis in range(3)]
    whole = [scale * np.eye(3) for scale in SCALES]
    return (*(turn for turn in cube if np.linalg.det(turn) > 0), *turns, *scales, *whole)


def _turn(axis: int, degrees: float) -> Float64[np.ndarray, "3 3"]:
    """A turn about one axis."""
    i, j = (k for k in range(3) if k != axis)
    turn, angle = np.eye(3), np.radians(degrees)
    turn[i, i] = turn[j, j] = np.cos(angle)
    turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
    return turn


def _about_centre(linear: Float64[np.ndarray, "3 3"]) -> Affine:
    place = np.eye(4)
    place[:3, :3], place[:3, 3] = linear, CENTRE_MM - linear @ CENTRE_MM
    return place


def _shift(millimetres: Float64[np.ndarray, " axis"]) -> Affine:
    place = np.eye(4)
    place[:3, 3] = millimetres
    return place


@cache
def _coordinates() -> Float64[np.ndarray, "points 4"]:
    """Of the lattice's points, from the brain's centre, and a constant: what the affine map's rows multiply."""
    points = FIRST_MM + STEP_MM * np.indices(SHAPE).reshape(3, -1).T
    return np.column_stack([points - CENTRE_MM, np.full(len(points), LENGTH_MM)])


@cache
def _is_short_shift() -> Bool[np.ndarray, "20 24 20"]:
    steps = np.meshgrid(*(np.abs(_signed_steps(n)) for n in PADDED), indexing="ij")
    return np.asarray(np.max(steps, axis=0) * STEP_MM * COARSE <= LONGEST_SHIFT_MM)


def _signed_steps(n: int) -> Float64[np.ndarray, " n"]:
    """The shifts that a Fourier transform of length n tells apart, in its order."""
    return np.asarray(fft.fftfreq(n, 1 / n), dtype=np.float64)
