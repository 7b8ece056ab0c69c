"""From an image file to a tensor on the model's grid: the same brain gives the same tensor however it was stored.

The background is found and set to 0 first (permmoe.data.background); an image whose background is 0 keeps every bit.
Axes are turned to right-anterior-superior, which moves voxels and changes none. An image that then has the grid's
shape and spacing is on the grid already. Any other is averaged over whole voxels down to about the grid's spacing
(so that a coarse grid does not pick single noisy voxels) and interpolated once, linearly, onto the grid, placed

- by its coordinates, where it is registered to an MNI template: its name (`space-MNI…`) or its header (form code 3 or
  4) says so, or its axes are straight and its field of view is centred where templates have it;
- with the head's centre on the template brain's centre otherwise: coordinates of a scanner say where the head lay in
  the magnet, nothing about anatomy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Float, Float64
from nibabel.spatialimages import SpatialImage
from torch import Tensor
from torch.nn.functional import avg_pool3d

from permmoe.config import VolumeGrid
from permmoe.data.background import without_background
from permmoe.data.image_file import BrokenVolume, Frames, checked_affine, checked_voxels, open_image
from permmoe.data.reasons import Reason
from permmoe.modality import Modality

PREPROCESSING_VERSION = 2
"""Part of every cache key: raise it with any change here that changes a tensor."""

TEMPLATE_FIELD_CENTRE_MM = (0.0, -18.0, 18.0)
"""Centre of FSL's field of view in MNI coordinates; SPM's and ICBM's lie within 5 mm of it."""
TEMPLATE_BRAIN_CENTRE_MM = (0.0, -22.0, 10.0)
"""Centre of mass of the ICBM152 brain."""
FIELD_CENTRE_TOLERANCE_MM = 10.0
HEAD_HEIGHT_MM = 150.0
"""From the crown down to below the cerebellum: what lies lower is neck and shoulders."""
MIDDLE_SUVR = (0.2, 4.0)
"""The median uptake ratio of a head, whatever its reference region, lies well inside; counts, activity concentrations,
integers that lost their scale and values in per mille lie outside."""
NEGATIVE_SHARE = 0.01
"""Reconstruction leaves few voxels that are clearly negative; where there are more, a mean was subtracted."""


@dataclass(frozen=True)
class _Placed:
    """Voxels and where they lie."""

    voxels: Float[Tensor, "x y z"]
    affine: Float64[Tensor, "4 4"]
    """Voxel indices to the image's own coordinates, mm."""


def grid_affine(grid: VolumeGrid) -> Float[np.ndarray, "4 4"]:
    """Voxel indices to MNI coordinates, mm. All grids share a centre; 91×109×91 at 2 mm is FSL's template grid."""
    affine = np.diag([grid.spacing_mm] * 3 + [1.0])
    affine[:3, 3] = TEMPLATE_FIELD_CENTRE_MM - grid.spacing_mm * (np.array(grid.shape) - 1) / 2
    return affine


def read_volume(path: Path, modality: Modality, grid: VolumeGrid, frames: Frames = "reject") -> Float[Tensor, "x y z"]:
    """One image on the grid, normalised as its modality says. Raises BrokenVolume with the reason where it cannot be.

    `zscore`: mean 0 and SD 1 over the head, which is what is not 0; background is 0. `suvr`: values as they are.
    """
    image = open_image(path)
    affine = checked_affine(image)
    voxels = checked_voxels(image, frames)
    if modality.normalisation == "suvr" and _has_negative_values(voxels):
        raise BrokenVolume(Reason.NOT_SUVR)
    voxels = without_background(voxels)
    extent_mm = np.array(voxels.shape) * np.linalg.norm(affine[:3, :3], axis=0)
    if min(voxels.shape) < 4 or extent_mm.min() < min(grid.shape) * grid.spacing_mm / 4:
        raise BrokenVolume(Reason.SMALL_FIELD)
    volume = _turned(voxels, affine)
    if not _is_on(grid, volume):
        is_template_space = says_template_space(path, image) or _has_template_field(volume)
        volume = _resampled(_averaged(volume, grid.spacing_mm), grid, is_template_space)
    return normalised(volume.voxels, modality)


def _has_negative_values(voxels: Float[np.ndarray, "i j k"]) -> bool:
    """Whether more voxels lie clearly below 0 than reconstruction leaves there."""
    filled = voxels[voxels != 0]
    return bool((filled < -0.1 * np.quantile(filled, 0.99)).mean() > NEGATIVE_SHARE)


def _turned(voxels: Float[np.ndarray, "i j k"], affine: Float[np.ndarray, "4 4"]) -> _Placed:
    """The same voxels with their axes right, anterior, superior; one that has them already is not copied."""
    orientation = nib.io_orientation(affine)
    moved = affine @ nib.orientations.inv_ornt_aff(orientation, voxels.shape)
    turned = np.ascontiguousarray(nib.apply_orientation(voxels, orientation))
    return _Placed(torch.from_numpy(turned), torch.from_numpy(moved))


def _is_on(grid: VolumeGrid, volume: _Placed) -> bool:
    directions = volume.affine[:3, :3].numpy()
    return tuple(volume.voxels.shape) == grid.shape and np.allclose(
        directions, grid.spacing_mm * np.eye(3), rtol=0, atol=1e-3 * grid.spacing_mm
    )


def says_template_space(path: Path, image: SpatialImage) -> bool:
    """Whether an image's name or header says that it is registered to an MNI template."""
    if re.search(r"_space-MNI", path.name, re.IGNORECASE):
        return True
    if not isinstance(image, nib.Nifti1Image):
        return False
    form_code = int(image.header["sform_code"]) or int(image.header["qform_code"])
    return form_code in (3, 4)  # Talairach, MNI 152


def _has_template_field(volume: _Placed) -> bool:
    affine = volume.affine.numpy()
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    centre_mm = affine[:3, :3] @ (np.array(volume.voxels.shape) - 1) / 2 + affine[:3, 3]
    offset_mm = np.abs(centre_mm - TEMPLATE_FIELD_CENTRE_MM)
    return bool(np.allclose(directions, np.eye(3), rtol=0, atol=1e-3) and offset_mm.max() <= FIELD_CENTRE_TOLERANCE_MM)


def _averaged(volume: _Placed, spacing_mm: float) -> _Placed:
    """Means over as many whole voxels along each axis as fit into the spacing; the affine follows."""
    affine = volume.affine.clone()
    edges_mm = affine[:3, :3].norm(dim=0)
    window = tuple(max(1, int(spacing_mm / float(edge) + 1e-3)) for edge in edges_mm)
    if window == (1, 1, 1):
        return volume
    steps = torch.tensor(window, dtype=affine.dtype)
    affine[:3, 3] += affine[:3, :3] @ ((steps - 1) / 2)
    affine[:3, :3] *= steps
    pooled = avg_pool3d(volume.voxels[None], window, ceil_mode=True, count_include_pad=False)
    return _Placed(pooled[0], affine)


def _resampled(volume: _Placed, grid: VolumeGrid, is_template_space: bool) -> _Placed:
    # Imported late: MONAI costs every process seconds and 170 MB, and most read from a cache that is filled.
    from monai.data import MetaTensor
    from monai.transforms import SpatialResample

    target = torch.from_numpy(grid_affine(grid))
    if not is_template_space:
        target[:3, 3] += head_centre_mm(volume.voxels, volume.affine) - torch.tensor(
            TEMPLATE_BRAIN_CENTRE_MM, dtype=torch.float64
        )
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=torch.float32)
    image = MetaTensor(volume.voxels[None], affine=volume.affine)
    resampled = resample(image, dst_affine=target, spatial_size=grid.shape).as_tensor()[0]
    if not resampled.any():
        raise BrokenVolume(Reason.OFF_GRID)
    return _Placed(resampled, target)


def head_centre_mm(values: Float[Tensor, "x y z"], affine: Float64[Tensor, "4 4"]) -> Float64[Tensor, 3]:
    """Centre of mass of the head without the neck, in the image's own coordinates; axes right, anterior, superior.

    Head is what exceeds a tenth of the robust range, as in FSL's BET (Smith 2002, section 2.1).
    """
    low, high = np.percentile(values.numpy(), (2, 98))
    head = (values > low + 0.1 * (high - low)).nonzero().double()
    if len(head) == 0:
        head = values.nonzero().double()
    points_mm = head @ affine[:3, :3].T + affine[:3, 3]
    # A quantile, not the maximum: a few bright voxels of air above the head must not pass for its crown.
    crown_mm = np.quantile(points_mm[:, 2].numpy(), 0.999)
    centre_mm: Tensor = points_mm[points_mm[:, 2] > crown_mm - HEAD_HEIGHT_MM].mean(dim=0)
    return centre_mm


def normalised(voxels: Float[Tensor, "x y z"], modality: Modality) -> Float[Tensor, "x y z"]:
    """A volume on the grid as its modality says (`read_volume`). Raises BrokenVolume for values that cannot be so."""
    is_signal = voxels != 0
    if modality.normalisation == "suvr":
        if not MIDDLE_SUVR[0] <= voxels[is_signal].median() <= MIDDLE_SUVR[1]:
            raise BrokenVolume(Reason.NOT_SUVR)
        return voxels.contiguous()
    signal = voxels[is_signal].double()
    spread = signal.std(correction=0)
    if not spread > 1e-6 * signal.abs().max():
        raise BrokenVolume(Reason.EQUAL_VOXELS)
    return torch.where(is_signal, (voxels - signal.mean()) / spread, 0.0).float().contiguous()
