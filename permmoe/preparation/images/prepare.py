"""From a scan as it was taken to an image of the brain on the template's grid, one function for each kind of scan.

A T1 is cleared of its bias field and its skull and registered to the template by an affine map. The other scans of its
subject follow it: they are registered to the T1's whole head by a rigid map, and through it to the template, so that
they are interpolated once and have its mask. Without a T1 a FLAIR is treated as a T1 is, by another metric, and PET is
registered straight to the template and has its mask. Both are less certain: the result says so, and
permmoe.preparation.quality judges it more strictly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64

from permmoe.config import VolumeGrid
from permmoe.data.image_file import BrokenVolume
from permmoe.data.reasons import Reason
from permmoe.data.template import read_template
from permmoe.data.volumes import head_centre_mm
from permmoe.preparation.images.bias_field import without_bias
from permmoe.preparation.images.brain_mask import brain_mask
from permmoe.preparation.images.image import Image, Matrix, isotropic, on_grid, onto, template_image
from permmoe.preparation.images.registration import (
    Metric,
    Registration,
    agreement_at,
    brain_to_template,
    head_target,
    head_to_template,
    rigid,
)
from permmoe.preparation.images.uptake import averaged, uptake_ratios


@dataclass(frozen=True)
class Measured:
    """What a preparation noted on its way; what is judged later (permmoe.preparation.quality)."""

    agreement: float
    """Of the registration: squared correlation with the template for a T1, mutual information in nats for others."""
    lead: float
    """How far the registration leads the next that ended elsewhere, as a share of its agreement."""
    mask_ml: float | None = None
    """Volume of the brain's mask in the head itself; None where the mask is another image's."""
    motion_mm: float = 0.0
    reference: float | None = None
    """PET: mean of the reference region, in the scan's own unit."""
    reference_cv: float | None = None
    reference_voxels: int | None = None


@dataclass(frozen=True)
class PreparedImage:
    """A brain on the template's grid."""

    image: Image
    """0 outside of the brain. MRI in the scanner's own unit, PET as uptake ratios."""
    mask: Image
    """1 inside the brain, on the same voxels."""
    matrix: Matrix
    """Millimetres of the template to millimetres of the scan."""
    follows_t1: bool
    """Whether a T1 led the way; True for a T1 itself."""
    measured: Measured


@dataclass(frozen=True)
class LeadingT1:
    """A T1 that tells where the brain lies in other scans of the same head."""

    prepared: PreparedImage
    head: Image
    """As the scanner had it, with its skull."""


def prepare_t1(head: Image, grid: VolumeGrid, *, is_registered: bool = False) -> PreparedImage:
    """A T1. `is_registered`: its millimetres are the template's already.

    Raises BrokenVolume where no brain is found in it or the registration finds no overlap.
    """
    return _by_its_own_brain(head.canonical(), grid, "correlation", is_registered, is_t1=True)


def prepare_flair(head: Image, grid: VolumeGrid, t1: LeadingT1 | None, *, is_registered: bool = False) -> PreparedImage:
    """A FLAIR of the T1's head; or without a T1, then by its own brain.

    Raises BrokenVolume where no registration is found, or where there is no T1 and no brain is found in it.
    """
    head = head.canonical()
    if t1 is None:
        return _alone(head, grid, is_registered)
    found, mask = _found(head, t1, is_registered), t1.prepared.mask
    own = _binary(onto(mask, head, np.linalg.inv(found.matrix)))
    image = on_grid(without_bias(head, own), grid, found.matrix)
    return _checked(image, mask, found, Measured(found.agreement, found.lead), follows_t1=True)


def prepare_pet(
    frames: Sequence[Image],
    durations_seconds: Sequence[float],
    region: str,
    grid: VolumeGrid,
    t1: LeadingT1 | None,
    *,
    is_registered: bool = False,
) -> PreparedImage:
    """PET as uptake ratios to a region of permmoe.preparation.images.regions, whatever the scan's unit.

    Raises BrokenVolume where no registration is found, or the reference region lies outside of the scan.
    """
    whole = averaged([frame.canonical() for frame in frames], durations_seconds)
    found = _found(whole.image, t1, is_registered)
    inside = t1.prepared.mask if t1 is not None else _template_mask(grid)
    uptake = uptake_ratios(on_grid(whole.image, grid, found.matrix), grid, region)
    measured = Measured(
        found.agreement,
        found.lead,
        None,
        whole.motion_mm,
        uptake.reference,
        uptake.reference_cv,
        uptake.reference_voxels,
    )
    return _checked(uptake.ratios, inside, found, measured, follows_t1=t1 is not None)


def _by_its_own_brain(
    head: Image, grid: VolumeGrid, metric: Metric, is_registered: bool, *, is_t1: bool
) -> PreparedImage:
    """An MRI whose brain is found in itself: skull removed, registered to the template, with its own mask."""
    mask = brain_mask(head)
    brain = without_bias(head, mask).masked(mask)
    found = Registration(np.eye(4), 1.0, 1.0) if is_registered else brain_to_template(brain, metric)
    inside = _binary(on_grid(mask, grid, found.matrix))
    ml = float(mask.voxels.sum()) * mask.voxel_ml
    image = on_grid(brain, grid, found.matrix)
    return _checked(image, inside, found, Measured(found.agreement, found.lead, mask_ml=ml), follows_t1=is_t1)


def _alone(head: Image, grid: VolumeGrid, is_registered: bool) -> PreparedImage:
    """An MRI without a T1. deepbet learnt on T1 and finds most brains in FLAIR: where it does not, the image goes."""
    try:
        return _by_its_own_brain(head, grid, "mutual_information", is_registered, is_t1=False)
    except BrokenVolume as broken:
        reason = Reason.NO_BRAIN_WITHOUT_T1 if broken.reason is Reason.NOT_A_HEAD else broken.reason
        raise BrokenVolume(reason) from broken


def _found(head: Image, t1: LeadingT1 | None, is_registered: bool) -> Registration:
    """The map from the template to a scan that is no T1; of one that is registered, how well it agrees with its T1."""
    if t1 is None:
        return Registration(np.eye(4), 1.0, 1.0) if is_registered else head_to_template(head, _centre_mm(head))
    own, matrix = t1.head.canonical(), t1.prepared.matrix
    target = head_target(own, _binary(onto(t1.prepared.mask, own, np.linalg.inv(matrix))))
    if is_registered:
        return Registration(np.eye(4), agreement_at(target, head, np.linalg.inv(matrix)), 1.0)
    to_scan = rigid(target, head, _centre_mm(head))
    return replace(to_scan, matrix=to_scan.matrix @ matrix)


def _centre_mm(head: Image) -> Float64[np.ndarray, " 3"]:
    coarse = isotropic(head, 4.0)
    return head_centre_mm(torch.from_numpy(coarse.voxels), torch.from_numpy(coarse.affine)).numpy()


def _template_mask(grid: VolumeGrid) -> Image:
    template = template_image((read_template("t1") > 0).astype(np.float32))
    return _binary(on_grid(template, grid, np.eye(4)))


def _binary(mask: Image) -> Image:
    return mask.with_voxels((mask.voxels > 0.5).astype(np.float32))


def _checked(image: Image, mask: Image, found: Registration, measured: Measured, *, follows_t1: bool) -> PreparedImage:
    masked = image.masked(mask)
    if not masked.voxels.any():
        raise BrokenVolume(Reason.NO_REGISTRATION)
    return PreparedImage(masked, mask, found.matrix, follows_t1, measured)
