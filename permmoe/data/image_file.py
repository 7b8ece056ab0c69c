"""From an image file to its voxels and their place, and everything that can be wrong with a file."""

from __future__ import annotations

import gzip
import zlib
from itertools import product
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from jaxtyping import Float
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from nibabel.wrapstruct import WrapStructError

from permmoe.data.reasons import Reason
from permmoe.errors import PermmoeError

Frames = Literal["reject", "mean"]
"""What becomes of an image with frames over time: left out, or averaged."""


class BrokenVolume(PermmoeError):
    """An image that cannot be used. The message is the reason alone, without path or identifier."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def why_unread(error: OSError) -> Reason:
    """Why a file could not be had: it is away, or the system refuses to open or to read it, be it a failing disk."""
    return Reason.FILE_NOT_FOUND if isinstance(error, FileNotFoundError) else Reason.FILE_NOT_OPENED


def open_image(path: Path, *, is_whole: bool = True) -> SpatialImage:
    """The image in a file, whose voxels are read later. Raises BrokenVolume, with the reason, where there is none.

    A compressed file is unpacked to its end, unless `is_whole` is False: then only its header counts.
    """
    try:
        with path.open("rb"):  # nibabel takes a file that may not be read for one of no known kind.
            pass
        image = _unpacked(path) if is_whole and path.name.lower().endswith(".nii.gz") else nib.load(path)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise BrokenVolume(Reason.DAMAGED_ARCHIVE) from None
    except OSError as error:
        raise BrokenVolume(_why_unread(error, Reason.UNREADABLE_HEADER)) from None
    except (ValueError, TypeError, ImageFileError, HeaderDataError, WrapStructError):
        raise BrokenVolume(Reason.UNREADABLE_HEADER) from None
    if not isinstance(image, SpatialImage):
        raise BrokenVolume(Reason.NO_VOXELS)
    return image


def _why_unread(error: OSError, of_content: Reason) -> Reason:
    """As `why_unread`; `of_content` where it is nibabel that complains, whose errors of the system have no number."""
    return of_content if error.errno is None else why_unread(error)


def _unpacked(path: Path) -> SpatialImage:
    """Unpack the file to its end, where the checksum stands: nibabel stops at the last voxel and never checks it."""
    content = gzip.decompress(path.read_bytes())
    kind = nib.Nifti2Image if nib.Nifti2Header.may_contain_header(content) else nib.Nifti1Image
    image: SpatialImage = kind.from_bytes(content)
    return image


def checked_affine(image: SpatialImage) -> Float[np.ndarray, "4 4"]:
    affine = np.asarray(image.affine, dtype=np.float64)
    edges_mm = np.linalg.norm(affine[:3, :3], axis=0)
    # The determinant of unit edge vectors is the volume of the voxel that they span: 1 for a box, 0 for a sheet.
    if not np.isfinite(affine).all() or edges_mm.min() <= 0 or abs(np.linalg.det(affine[:3, :3] / edges_mm)) < 1e-2:
        raise BrokenVolume(Reason.SINGULAR_AFFINE)
    if isinstance(image, nib.Nifti1Image) and _has_two_places(image):
        raise BrokenVolume(Reason.TWO_PLACES)
    return affine


def _has_two_places(image: nib.Nifti1Image) -> bool:
    """Whether sform and qform claim one space and place a corner of the image more than a voxel apart.

    The sform is the one that counts. A registered image may keep the scanner's qform: then their codes differ.
    """
    try:
        sform, qform = image.header.get_sform(coded=True), image.header.get_qform(coded=True)
    except (ValueError, HeaderDataError):
        return False  # a quaternion that is none places nothing
    if sform[1] != qform[1] or sform[0] is None or qform[0] is None:
        return False
    corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in image.shape[:3]))])
    apart_mm = np.linalg.norm(corners @ (sform[0] - qform[0]).T, axis=1)
    return bool(apart_mm.max() > np.linalg.norm(sform[0][:3, :3], axis=0).max())


def checked_voxels(image: SpatialImage, frames: Frames) -> Float[np.ndarray, "i j k"]:
    """The voxels of an image, in fp32. Raises BrokenVolume for frames over time that are not to be averaged, and as
    `checked_frames`."""
    each = checked_frames(image)
    if each.shape[3] > 1 and frames == "reject":
        raise BrokenVolume(Reason.TOO_MANY_DIMENSIONS)
    return np.ascontiguousarray(each.mean(axis=3) if each.shape[3] > 1 else each[..., 0], dtype=np.float32)


def checked_frames(image: SpatialImage) -> Float[np.ndarray, "i j k frame"]:
    """The voxels of each frame; one frame where there is no time. Raises BrokenVolume where they cannot be used."""
    shape = tuple(image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) < 3 or 0 in shape:
        raise BrokenVolume(Reason.TOO_FEW_DIMENSIONS)
    if len(shape) > 4:
        raise BrokenVolume(Reason.TOO_MANY_DIMENSIONS)
    try:
        voxels = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
    except (EOFError, zlib.error):
        raise BrokenVolume(Reason.DAMAGED_ARCHIVE) from None
    except OSError as error:
        raise BrokenVolume(_why_unread(error, Reason.UNREADABLE_VOXELS)) from None
    except (ValueError, TypeError):
        raise BrokenVolume(Reason.UNREADABLE_VOXELS) from None
    if not np.isfinite(voxels).all():
        raise BrokenVolume(Reason.NOT_FINITE_VOXELS)
    if not voxels.any():
        raise BrokenVolume(Reason.ZERO_VOXELS)
    each: Float[np.ndarray, "i j k frame"] = voxels if len(shape) == 4 else voxels[..., None]
    return each
