"""What an image's header says, without its voxels: whether it is an image of a head at all, and how fine it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from permmoe.data.image_file import BrokenVolume, checked_affine, open_image
from permmoe.data.reasons import Reason
from permmoe.preparation.scan import PET

FEWEST_SLICES = 8
"""A head is at least ten centimetres high, and no slice that is of use is thicker than 12 mm."""
SUFFIXES = (".nii", ".nii.gz", ".img", ".img.gz", ".hdr", ".mgz", ".mgh")
"""How the names of images end that nibabel reads; a .hdr stands for its .img."""


@dataclass(frozen=True)
class ImageFacts:
    """Extent and fineness of an image."""

    shape: tuple[int, int, int]
    n_frames: int
    voxel_mm3: float


def read_facts(path: Path, modality: str) -> ImageFacts:
    """The facts of an image of a modality. Raises BrokenVolume, with the reason, for one that cannot be used."""
    image = open_image(path, is_whole=False)
    shape = tuple(int(n) for n in image.shape)
    if len(shape) < 3 or 0 in shape:
        raise BrokenVolume(Reason.TOO_FEW_DIMENSIONS)
    if min(shape[:3]) < FEWEST_SLICES:
        raise BrokenVolume(Reason.TOO_FEW_SLICES)
    n_frames = int(np.prod(shape[3:]))
    if n_frames > 1 and (modality not in PET or len(shape) > 4):
        raise BrokenVolume(Reason.TOO_MANY_DIMENSIONS)
    voxel_mm3 = float(abs(np.linalg.det(checked_affine(image)[:3, :3])))
    return ImageFacts((shape[0], shape[1], shape[2]), n_frames, voxel_mm3)


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image."""
    return path.name.lower().endswith(SUFFIXES)
