"""A session as series of DICOM, one file a slice and frame, with a localiser and a reformatted series among them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import Float, UInt16

from permmoe.data.cohort.raw.acquisition import Acquired
from permmoe.data.cohort.raw.pet_sidecar import TRACERS, pet_times
from permmoe.data.cohort.raw.protocol import PROTOCOLS
from permmoe.data.cohort.raw.session import RawScan
from permmoe.data.cohort.settings import ImageModality
from permmoe.data.cohort.subjects import Subject
from permmoe.errors import ConfigurationError

_MR, _PT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.128"
"""Storage classes of the images."""
_EXPLICIT = "1.2.840.10008.1.2.1"
_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
_INJECTION_HOUR = 10

_MRI: Mapping[ImageModality, Mapping[str, object]] = {
    "t1": {
        "MRAcquisitionType": "3D", "ScanningSequence": ["GR", "IR"], "SequenceVariant": "SP", "EchoTime": 2.98,
        "RepetitionTime": 2300.0, "InversionTime": 900.0, "FlipAngle": 9.0,
    },
    "flair": {
        "MRAcquisitionType": "2D", "ScanningSequence": ["SE", "IR"], "SequenceVariant": "SK", "EchoTime": 90.0,
        "RepetitionTime": 9000.0, "InversionTime": 2500.0, "FlipAngle": 150.0,
    },
}  # fmt: skip


@dataclass(frozen=True)
class _Series:
    """One series; `acquired` may be several stacks of slices, each with its own orientation."""

    number: int
    description: str
    image_type: tuple[str, ...]
    stacks: tuple[Acquired, ...]
    tags: Mapping[str, object]
    times: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """PET: when frames start and how long they last, as `pet_times` names them."""
    radiopharmaceutical: str = ""


def dicom_files(subject: Subject, scans: Sequence[RawScan], tracers: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Names, below a folder of all patients, and contents; `tracers` has BIDS' name of the tracer of each PET scan.

    Raises ConfigurationError where the extra `prepare` is not installed.
    """
    for series in _all_series(scans, tracers):
        folder = f"{subject.ptid}/{series.number:02d}_{re.sub(r'[^A-Za-z0-9]+', '_', series.description)}"
        for number, content in enumerate(_contents(subject, series), start=1):
            yield f"{folder}/{number:04d}.dcm", content


def _all_series(scans: Sequence[RawScan], tracers: Mapping[str, str]) -> Iterator[_Series]:
    original = ("ORIGINAL", "PRIMARY")
    for number, scan in enumerate(scans, start=2):
        description = PROTOCOLS[scan.modality].description
        if scan.modality in tracers:
            tracer = tracers[scan.modality]
            times = pet_times(tracer, scan.acquired.integers.shape[3])
            name = TRACERS[tracer].radiopharmaceutical
            yield _Series(number, description, original, (scan.acquired,), {}, times, name)
            continue
        tags = _MRI[scan.modality]
        yield _Series(number, description, (*original, "M", "ND", "NORM"), (_whole(scan.acquired),), tags)
        if scan.modality == "t1":
            planes = tuple(_turned(scan.acquired, last, 3) for last in range(3))
            localiser = {"MRAcquisitionType": "2D", "ScanningSequence": "GR", "EchoTime": 5.0, "RepetitionTime": 20.0}
            yield _Series(1, "3 Plane Localizer", (*original, "LOCALIZER"), planes, localiser)
            reformatted = (_turned(scan.acquired, 1, 40),)
            yield _Series(20, "MPR Axial Range", ("DERIVED", "SECONDARY", "MPR", "M", "ND", "NORM"), reformatted, tags)


def _whole(acquired: Acquired) -> Acquired:
    """With the slope applied: an MRI's file has none."""
    values = np.round(acquired.integers * acquired.slope).clip(0, 32767).astype(np.int16)
    return replace(acquired, integers=values, slope=1.0)


def _turned(acquired: Acquired, last: int, count: int) -> Acquired:
    """`count` slices across the voxel axis `last`, spread over the middle of the field."""
    axes = [axis for axis in range(3) if axis != last] + [last]
    whole = _whole(acquired)
    length = whole.integers.shape[last]
    step = max(1, length // (2 * count))
    first = (length - step * count) // 2
    affine = whole.affine.copy()
    affine[:3, 3] += first * affine[:3, last]
    affine[:3, :3] = affine[:3, axes] * [1, 1, step]
    turned = np.transpose(whole.integers, (*axes, 3))[:, :, first : first + step * count : step]
    return Acquired(turned, 1.0, affine)


def _contents(subject: Subject, series: _Series) -> Iterator[bytes]:
    slices = sum(stack.integers.shape[2] for stack in series.stacks)
    frames = series.stacks[0].integers.shape[3]
    number = 0
    for frame in range(frames):
        for stack in series.stacks:
            for place in range(stack.integers.shape[2]):
                number += 1
                image = _image(subject, series, stack, place, frame, number)
                if series.times:
                    _add_pet(image, series, frame, slices, number)
                buffer = BytesIO()
                image.save_as(buffer, enforce_file_format=True)
                yield buffer.getvalue()


def _image(subject: Subject, series: _Series, stack: Acquired, place: int, frame: int, number: int) -> Any:
    """One slice; its columns go along the first voxel axis, its rows along the second."""
    try:
        from pydicom.dataset import FileDataset, FileMetaDataset
    except ImportError:
        raise ConfigurationError(
            "DICOM needs the package pydicom; install permmoe[prepare], or set the cohort's raw.dicom_subjects to 0"
        ) from None
    spacing = np.linalg.norm(stack.affine[:3, :3], axis=0)
    directions = (stack.affine[:3, :3] / spacing).T * _RAS_TO_LPS
    pixels = np.ascontiguousarray(stack.integers[:, :, place, frame].T.astype(np.uint16))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = _PT if series.times else _MR
    meta.MediaStorageSOPInstanceUID = _uid(subject.ptid, series.description, number)
    meta.TransferSyntaxUID = _EXPLICIT
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID, image.FrameOfReferenceUID = _uid(subject.ptid), _uid(subject.ptid, "place", series.number)
    image.SeriesInstanceUID = _uid(subject.ptid, series.description)
    day = subject.index_visit.day
    image.PatientID, image.PatientName = subject.ptid, f"SYNTHETIC^{subject.ptid}"
    image.PatientSex = subject.person.sex[0]
    image.PatientBirthDate = f"{day.year - int(subject.person.age_years)}0101"
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = f"{day:%Y%m%d}"
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = f"{_INJECTION_HOUR:02d}0000"
    image.Modality, image.Manufacturer = "PT" if series.times else "MR", "SYNTHETIC"
    image.SeriesDescription = image.ProtocolName = series.description
    image.SeriesNumber, image.AcquisitionNumber, image.InstanceNumber = series.number, 1, number
    image.ImageType, image.PatientPosition = list(series.image_type), "HFS"
    image.Rows, image.Columns = pixels.shape
    image.PixelSpacing, image.SliceThickness = _decimals(spacing[[1, 0]]), _decimals(spacing[2:])[0]
    image.SpacingBetweenSlices = image.SliceThickness
    image.ImageOrientationPatient = _decimals(np.concatenate([directions[0], directions[1]]))
    first_mm = stack.affine[:3, 3] + place * stack.affine[:3, 2]
    image.ImagePositionPatient = _decimals(first_mm * _RAS_TO_LPS)
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    for keyword, value in series.tags.items():
        setattr(image, keyword, value)
    if series.times:
        image.RescaleSlope, image.RescaleIntercept = f"{stack.slope:.10g}", 0.0
    _set_pixels(image, pixels)
    return image


def _set_pixels(image: Any, pixels: UInt16[np.ndarray, "rows columns"]) -> None:
    image.PixelData = pixels.astype("<u2").tobytes()
    image["PixelData"].VR = "OW"


def _add_pet(image: Any, series: _Series, frame: int, slices: int, number: int) -> None:
    from pydicom.dataset import Dataset

    starts, seconds = series.times["FrameTimesStart"], series.times["FrameDuration"][frame]
    clock = _INJECTION_HOUR * 3600 + starts[frame]
    image.AcquisitionTime = f"{clock // 3600:02d}{clock // 60 % 60:02d}{clock % 60:02d}"
    image.FrameReferenceTime = f"{(starts[frame] - starts[0] + seconds / 2) * 1000:.10g}"
    image.ActualFrameDuration = seconds * 1000
    image.SeriesType, image.ImageIndex = ["DYNAMIC", "IMAGE"], number
    image.NumberOfSlices, image.NumberOfTimeSlices = slices, len(starts)
    image.Units, image.DecayCorrection, image.CorrectedImage = "BQML", "START", ["DECY", "ATTN", "SCAT"]
    dose = Dataset()
    dose.Radiopharmaceutical = series.radiopharmaceutical
    dose.RadiopharmaceuticalStartTime, dose.RadionuclideTotalDose = f"{_INJECTION_HOUR:02d}0000", "3.7e8"
    image.RadiopharmaceuticalInformationSequence = [dose]


def _decimals(values: Float[np.ndarray, " n"]) -> list[str]:
    """As DICOM writes numbers: at most 16 characters."""
    return [f"{value:.9f}"[:16] for value in values]


def _uid(*parts: str | int) -> str:
    """A unique identifier that follows from what it names."""
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"
