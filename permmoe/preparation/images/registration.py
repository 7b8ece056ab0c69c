"""Where a head lies against another: linear maps that make two images agree best, from many starts.

One start finds the nearest hill, which for a head that is turned is often the wrong one. So a coarse search starts from
a grid of rotations around matching centres, the best few are refined, and the best of these is refined once more.
SimpleITK computes the metrics and climbs; all voxels inside the mask count, so that equal images give equal maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Literal

import numpy as np
import SimpleITK as sitk
from jaxtyping import Float64
from scipy.ndimage import binary_dilation
from scipy.spatial.transform import Rotation

from permmoe.data.image_file import BrokenVolume
from permmoe.data.reasons import Reason
from permmoe.data.template import read_template
from permmoe.preparation.images.image import RAS_TO_LPS, Image, Matrix, isotropic, matrix_of, template_image, to_itk

SEARCH_DEGREES = (-25.0, 0.0, 25.0)
"""Rotations about each axis from which the search starts: a head lies within some 40° of straight."""
REFINED = 3
"""Starts that are refined."""
HEAD_RADIUS_MM = 75.0
MARGIN_MM = 6.0
"""How far around the brain the metric looks, so that its edge counts."""
HEAD_MARGIN_MM = 25.0
"""The same where whole heads are compared: skull, scalp and some air around them, and no neck, which bends."""
THINNED = 4
"""The last stage of a comparison of heads looks at every so many voxels: two or three times as fast, as exact."""

Metric = Literal["correlation", "mutual_information"]
"""The first for images of one contrast, the second for two (Mattes et al. 2001)."""


@dataclass(frozen=True)
class Registration:
    """A map between two images, and how well they agree under it."""

    matrix: Matrix
    """Millimetres of the fixed image to millimetres of the moving one."""
    agreement: float
    """Squared correlation, or mutual information in nats; more is better."""
    lead: float
    """By how much of the agreement it leads the next start that ended elsewhere; 0 where two starts tie."""


@dataclass(frozen=True)
class _Level:
    """How far one stage goes."""

    spacing_mm: float
    iterations: int
    first_step_mm: float
    last_step_mm: float


SEARCH = _Level(8.0, 15, 4.0, 0.1)
REFINE = _Level(4.0, 60, 2.0, 0.02)
FINISH = _Level(2.0, 60, 0.5, 0.005)


@dataclass(frozen=True)
class Target:
    """A fixed image, prepared for all stages."""

    images: dict[float, sitk.Image]
    masks: dict[float, sitk.Image]
    centre_mm: Float64[np.ndarray, " 3"]
    volume_ml: float


def brain_target(brain: Image) -> Target:
    """A brain without skull that other brains are registered to."""
    inside = brain.with_voxels((brain.voxels > 0).astype(np.float32))
    return _target(brain, inside, MARGIN_MM)


def head_target(head: Image, brain: Image) -> Target:
    """A whole head that other scans of it are registered to; `brain` is 1 in its brain, on the same voxels.

    PET of tau has little to tell a brain's tissues by, and a bright skin: what is around the brain has to be seen.
    """
    target = _target(head, brain, HEAD_MARGIN_MM)
    fine = target.masks[FINISH.spacing_mm]
    voxels = sitk.GetArrayFromImage(fine)
    thin = sitk.GetImageFromArray(voxels * (np.indices(voxels.shape).sum(0) % THINNED == 0).astype(voxels.dtype))
    thin.CopyInformation(fine)
    return replace(target, masks=target.masks | {FINISH.spacing_mm: thin})


def _target(image: Image, brain: Image, margin_mm: float) -> Target:
    """An image of which what lies within a margin around the brain counts."""
    images, masks = {}, {}
    for level in (SEARCH, REFINE, FINISH):
        images[level.spacing_mm] = to_itk(isotropic(image, level.spacing_mm))
        coarse = isotropic(brain, level.spacing_mm)
        reach = max(1, round(margin_mm / level.spacing_mm))
        wide = binary_dilation(coarse.voxels > 0.5, iterations=reach)
        masks[level.spacing_mm] = sitk.Cast(to_itk(coarse.with_voxels(wide.astype(np.float32))), sitk.sitkUInt8)
    return Target(images, masks, brain.centre_of_mass_mm(), float(brain.voxels.sum()) * brain.voxel_ml)


@lru_cache(maxsize=1)
def template_target() -> Target:
    """The template's brain (permmoe.data.template), once a process."""
    return brain_target(template_image(read_template("t1")))


def brain_to_template(brain: Image, metric: Metric = "correlation") -> Registration:
    """The affine map, template to image, of a brain whose skull is removed; the metric suits a T1, or another MRI."""
    target = template_target()
    inside = brain.with_voxels((brain.voxels > 0).astype(np.float32))
    size = (float(inside.voxels.sum()) * inside.voxel_ml / target.volume_ml) ** (1 / 3)
    starts = rotated_starts(target, inside.centre_of_mass_mm(), size)
    return _registered(target, brain, starts, metric, _affine)


def head_to_template(head: Image, centre_mm: Float64[np.ndarray, " 3"]) -> Registration:
    """The affine map, template to image, of an image of any contrast; `centre_mm` is about its brain's centre."""
    target = template_target()
    return _registered(target, head, rotated_starts(target, centre_mm, 1.0), "mutual_information", _affine)


def rigid(target: Target, head: Image, centre_mm: Float64[np.ndarray, " 3"]) -> Registration:
    """The rotation and translation, target to image, of another scan of the same head.

    The scanner's own coordinates are one start: scans of one sitting agree in them up to motion.
    """
    starts = [np.eye(4), *rotated_starts(target, centre_mm, 1.0)]
    return _registered(target, head, starts, "mutual_information", _rigid)


def agreement_at(target: Target, moving: Image, matrix: Matrix) -> float:
    """The mutual information, nats, of a target and an image under a map between them; 0 where they do not overlap."""
    method = _method("mutual_information", target.masks[FINISH.spacing_mm])
    method.SetInitialTransform(_affine(matrix, (RAS_TO_LPS[:3, :3] @ target.centre_mm).tolist()))
    fine = to_itk(isotropic(moving, FINISH.spacing_mm))
    try:
        return -float(method.MetricEvaluate(target.images[FINISH.spacing_mm], fine))
    except RuntimeError:
        return 0.0


def frame_onto(first: Image, frame: Image) -> Matrix:
    """The rigid map, first to frame, between two frames of one scan, whose contrast is the same."""
    inside = first.voxels > 0.2 * np.quantile(first.voxels, 0.99)
    target = brain_target(first.with_voxels(np.where(inside, first.voxels, 0)))
    centre = (RAS_TO_LPS[:3, :3] @ target.centre_mm).tolist()
    climbed = _climbed(target, frame, [_rigid(np.eye(4), centre)], "correlation", REFINE)
    return matrix_of(climbed[0][1]) if climbed else np.eye(4)


def moved_mm(matrix: Matrix, image: Image) -> float:
    """How far a map takes a point on a sphere of a head's radius around the image's centre of mass, at most."""
    return _apart_mm(matrix, np.eye(4), image.centre_of_mass_mm(), HEAD_RADIUS_MM)


def rotated_starts(target: Target, centre_mm: Float64[np.ndarray, " 3"], size: float) -> list[Matrix]:
    """Maps that take the target's centre to the image's, under each rotation of `SEARCH_DEGREES` and a common scale."""
    starts = []
    for degrees in product(SEARCH_DEGREES, repeat=3):
        start = np.eye(4)
        start[:3, :3] = size * Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
        start[:3, 3] = centre_mm - start[:3, :3] @ target.centre_mm
        starts.append(start)
    return starts


Builder = Callable[[Matrix, Sequence[float]], sitk.Transform]
"""From a start and the centre about which to turn, LPS, a transform with the wanted freedom."""


def _registered(
    target: Target, moving: Image, starts: Sequence[Matrix], metric: Metric, build: Builder
) -> Registration:
    centre = (RAS_TO_LPS[:3, :3] @ target.centre_mm).tolist()
    narrow = _similarity if build is _affine else build
    searched = _climbed(target, moving, [narrow(start, centre) for start in starts], metric, SEARCH)
    if not searched:
        raise BrokenVolume(Reason.NO_REGISTRATION)
    wider = [build(matrix_of(transform), centre) for _, transform in searched[:REFINED]]
    refined = _climbed(target, moving, wider, metric, REFINE)
    finished = _climbed(target, moving, [refined[0][1]], metric, FINISH) if refined else []
    if not finished:
        raise BrokenVolume(Reason.NO_REGISTRATION)
    matrix = matrix_of(finished[0][1])
    best = refined[0][0]
    others = [
        a
        for a, transform in refined[1:]
        if _apart_mm(matrix_of(transform), matrix, target.centre_mm, HEAD_RADIUS_MM) > 2 * MARGIN_MM
    ]
    lead = (best - max(others)) / abs(best) if others and best else 1.0
    return Registration(matrix, finished[0][0], lead)


def _climbed(
    target: Target, moving: Image, transforms: Sequence[sitk.Transform], metric: Metric, level: _Level
) -> list[tuple[float, sitk.Transform]]:
    """(agreement, transform) after a climb from each transform, the best first."""
    fixed, mask = target.images[level.spacing_mm], target.masks[level.spacing_mm]
    coarse = to_itk(isotropic(moving, level.spacing_mm))
    results = []
    for transform in transforms:
        method = _method(metric, mask)
        method.SetOptimizerAsRegularStepGradientDescent(
            level.first_step_mm, level.last_step_mm, level.iterations, relaxationFactor=0.6,
            gradientMagnitudeTolerance=1e-6,
        )  # fmt: skip
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=True)
        try:
            method.Execute(fixed, coarse)
        except RuntimeError:
            continue  # this start has no overlap with the image
        results.append((-float(method.GetMetricValue()), transform))
    return sorted(results, key=lambda result: -result[0])


def _method(metric: Metric, mask: sitk.Image) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    if metric == "correlation":
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _apart_mm(one: Matrix, other: Matrix, centre_mm: Float64[np.ndarray, " 3"], radius_mm: float) -> float:
    """How far two maps take one of six points on a sphere apart, at most."""
    points = np.array([centre_mm + sign * radius_mm * axis for axis in np.eye(3) for sign in (-1, 1)])
    points = np.c_[points, np.ones(len(points))]
    return float(np.linalg.norm((points @ (one - other).T)[:, :3], axis=1).max())


def _affine(start: Matrix, centre: Sequence[float]) -> sitk.Transform:
    return _placed(sitk.AffineTransform(3), start, centre)


def _similarity(start: Matrix, centre: Sequence[float]) -> sitk.Transform:
    return _placed(sitk.Similarity3DTransform(), start, centre)


def _rigid(start: Matrix, centre: Sequence[float]) -> sitk.Transform:
    return _placed(sitk.Euler3DTransform(), start, centre)


def _placed(transform: sitk.Transform, start: Matrix, centre: Sequence[float]) -> sitk.Transform:
    """The transform with a start's linear part and translation, turning about a centre (LPS, mm)."""
    lps = RAS_TO_LPS @ start @ RAS_TO_LPS
    transform.SetCenter(list(centre))
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation((lps[:3, 3] + lps[:3, :3] @ np.array(centre) - np.array(centre)).tolist())
    return transform
