"""A series of DICOM becomes one NIfTI image, by dcm2niix, once.

What dcm2niix writes is kept under the digest of the series' files; it appears whole or not at all. Of the header the
sidecar keeps a list of physical and technical values alone; no name, date, place, comment or description is kept, in
the sidecar or in the image.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from permmoe.data.image_file import BrokenVolume, why_unread
from permmoe.data.reasons import Reason
from permmoe.errors import ConfigurationError
from permmoe.preparation.sources.dicom_headers import Header
from permmoe.runtime.files import UNFINISHED_PREFIX, write_file

KEPT = (
    "Modality", "Manufacturer", "ManufacturersModelName", "SoftwareVersions", "MagneticFieldStrength",
    "MRAcquisitionType", "ScanningSequence", "SequenceVariant", "ScanOptions", "PulseSequenceType", "ImageType",
    "NonlinearGradientCorrection", "SliceThickness", "SpacingBetweenSlices", "EchoTime", "RepetitionTime",
    "InversionTime", "FlipAngle", "PixelBandwidth", "ParallelReductionFactorInPlane", "PartialFourier",
    "TracerRadionuclide", "Units", "DecayCorrection", "ReconMethodName", "ReconMethodParameterLabels",
    "AttenuationCorrection", "ScatterCorrectionMethod", "FrameTimesStart", "FrameDuration", "FrameReferenceTime",
    "ConversionSoftware", "ConversionSoftwareVersion",
)  # fmt: skip
"""What the sidecar keeps of what dcm2niix tells."""
LONGEST_SECONDS = 900
"""A series is converted in seconds; one that takes longer than this is given up."""
_TEXTS = ((4, 10), (14, 18), (148, 80), (228, 24), (328, 16))
"""Where a NIfTI header holds free text, bytes: data_type, db_name, descrip, aux_file, intent_name."""
_VERSION = "1"
"""Part of the digest: raise it with any change here that changes what is kept."""


@dataclass(frozen=True)
class Converted:
    """A series' image and what is kept of its header."""

    image: Path
    said: dict[str, Any]


def convert(headers: Sequence[Header], converted: Path) -> Converted:
    """The image of a series, made now or before, in a folder of its own under `converted`.

    Raises BrokenVolume, with the reason, where dcm2niix makes no image of it or several; ConfigurationError where the
    extra `prepare` is not installed; OSError where the disk is full.
    """
    folder = converted / _digest(headers)
    image, sidecar = folder / "image.nii.gz", folder / "image.json"
    if not folder.is_dir():
        with _scratch(converted) as scratch:
            made = _run(headers, scratch)
            finished = scratch / "finished"
            write_file(finished / image.name, _packed(made))
            said = json.loads(made.with_suffix(".json").read_text()) if made.with_suffix(".json").is_file() else {}
            kept = {key: said[key] for key in KEPT if key in said}
            write_file(finished / sidecar.name, json.dumps(kept, indent=2))
            try:
                finished.rename(folder)
            except OSError:
                if not folder.is_dir():  # Another process was quicker, and made the same.
                    raise
    return Converted(image, json.loads(sidecar.read_text()))


def _digest(headers: Sequence[Header]) -> str:
    try:
        parts = sorted(f"{h.instance or h.file.name} {h.file.stat().st_size}" for h in headers)
    except OSError as error:
        raise BrokenVolume(why_unread(error)) from None
    return hashlib.sha256("\n".join([_VERSION, *parts]).encode()).hexdigest()[:32]


@contextmanager
def _scratch(converted: Path) -> Iterator[Path]:
    converted.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=UNFINISHED_PREFIX, dir=converted))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(headers: Sequence[Header], scratch: Path) -> Path:
    """The one image that dcm2niix makes of these files. It sees links without the files' names, and nothing beside."""
    dicom, made = scratch / "dicom", scratch / "made"
    dicom.mkdir()
    made.mkdir()
    for number, header in enumerate(headers):
        (dicom / f"{number:06d}.dcm").symlink_to(header.file.resolve())
    # -g i: whatever defaults a user has set do not count. -c "": no comment. Its output names files: it is not shown.
    options = ["-g", "i", "-b", "y", "-ba", "y", "-c", "", "-z", "n", "-w", "1", "-d", "0", "-f", "image"]
    command = [_program(), *options, "-o", str(made), str(dicom)]
    try:
        subprocess.run(command, capture_output=True, timeout=LONGEST_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise BrokenVolume(Reason.NOT_CONVERTED) from None
    images = sorted(made.glob("*.nii"))
    if len(images) > 1:
        raise BrokenVolume(Reason.SEVERAL_IMAGES)
    if not images or not _is_whole(images[0]):
        _need_room(scratch, sum(header.file.stat().st_size for header in headers))
        is_compressed = not all(header.is_native for header in headers)
        raise BrokenVolume(Reason.NOT_DECODED if is_compressed else Reason.NOT_CONVERTED)
    return images[0]


def _is_whole(image: Path) -> bool:
    """Whether an image is as long as its header says: dcm2niix goes on where the disk is full."""
    with image.open("rb") as file:
        start = file.read(nib.Nifti1Header.sizeof_hdr)
    if len(start) < nib.Nifti1Header.sizeof_hdr:
        return False
    header = nib.Nifti1Header(start, check=False)
    n_bytes = int(np.prod(header.get_data_shape(), dtype=np.int64)) * header.get_data_dtype().itemsize
    return bool(image.stat().st_size >= int(header["vox_offset"]) + n_bytes)


def _need_room(folder: Path, n_bytes: int) -> None:
    """Raise OSError where the disk, or this account's share of it, has no room: dcm2niix does not say so itself."""
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, n_bytes)


def _program() -> str:
    try:
        from dcm2niix import bin as program
    except ImportError:
        raise ConfigurationError(
            "DICOM needs the program dcm2niix, which is not installed; install permmoe[prepare]"
        ) from None
    return str(program)


def _packed(image: Path) -> bytes:
    """The image's bytes, compressed, without its header's free text; equal images give equal bytes."""
    content = bytearray(image.read_bytes())
    for start, length in _TEXTS:
        content[start : start + length] = bytes(length)
    return gzip.compress(bytes(content), compresslevel=1, mtime=0)
