"""Small series of DICOM files, as scanners write them: real files, which dcm2niix converts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

MR, ENHANCED_MR = UID("1.2.840.10008.5.1.4.1.1.4"), UID("1.2.840.10008.5.1.4.1.1.4.1")
PT = UID("1.2.840.10008.5.1.4.1.1.128")
"""Storage classes of the images."""


@dataclass(frozen=True)
class Series:
    """A series to be written. Its slices are axial, its voxels a bright box in noise."""

    patient: str = "P-01"
    name: str = "DOE^JANE"
    birth: str = "19400102"
    sex: str = "F"
    day: str = "20190301"
    modality: str = "MR"
    description: str = "Accelerated Sagittal MPRAGE"
    number: int = 2
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M", "ND", "NORM")
    shape: tuple[int, int, int] = (14, 13, 12)
    """Rows, columns and slices."""
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 3.0)
    """Between rows, columns and slices."""
    frames: tuple[tuple[float, float], ...] = ()
    """Start and duration of each frame of a PET scan, seconds."""
    radiopharmaceutical: str = ""
    scan: str = ""
    """Series of one scan share its study and frame of reference; those of none have their own."""
    tags: Mapping[str, object] = field(default_factory=dict)
    """Further elements by keyword, or others' values; None leaves one out."""


def write_series(
    folder: Path, series: Series, *, leave_out: Collection[int] = (), name: str = "{:04d}.dcm"
) -> list[Path]:
    """Write a series into a folder, one file a slice and frame, and return the files; `leave_out` are slices."""
    folder.mkdir(parents=True, exist_ok=True)
    uids = {key: generate_uid() for key in ("study", "series", "frame")}
    if series.scan:
        uids |= {key: generate_uid(entropy_srcs=[series.scan, key]) for key in ("study", "frame")}
    files: list[Path] = []
    for frame in range(max(1, len(series.frames))):
        for place in range(series.shape[2]):
            number = frame * series.shape[2] + place + 1
            if place not in leave_out:
                path = folder / name.format(number)
                _slice(series, frame, place, number, uids).save_as(path, enforce_file_format=True)
                files.append(path)
    return files


def write_multiframe(path: Path, series: Series) -> Path:
    """Write a series of MRI as newer scanners do: one file, which says once what all of its slices have in common."""
    image = _slice(series, 0, 0, 1, {key: generate_uid() for key in ("study", "series", "frame")})
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = ENHANCED_MR
    own = ("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "EchoNumbers", "ImagePositionPatient")
    for keyword in (*own, "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        del image[keyword]
    shared = Dataset()
    shared.PixelMeasuresSequence = [
        _item(
            PixelSpacing=list(series.spacing_mm[:2]),
            SliceThickness=series.spacing_mm[2],
            SpacingBetweenSlices=series.spacing_mm[2],
        )
    ]
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    shared.MREchoSequence = [_item(EffectiveEchoTime=2.98)]
    shared.MRModifierSequence = [_item(InversionTimes=[900.0])]
    image.SharedFunctionalGroupsSequence = [shared]
    image.NumberOfFrames = series.shape[2]
    image.PerFrameFunctionalGroupsSequence = [
        _item(
            PlanePositionSequence=[_item(ImagePositionPatient=[-13.0, -14.0, series.spacing_mm[2] * place - 20])],
            FrameContentSequence=[
                _item(StackID="1", InStackPositionNumber=place + 1, DimensionIndexValues=[1, place + 1])
            ],
        )
        for place in range(series.shape[2])
    ]
    image.PixelData = image.PixelData * series.shape[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return path


def _item(**elements: object) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _slice(series: Series, frame: int, place: int, number: int, uids: Mapping[str, str]) -> FileDataset:
    rows, columns, slices = series.shape
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = PT if series.modality == "PT" else MR
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID = uids["study"], uids["series"]
    image.FrameOfReferenceUID = uids["frame"]
    image.PatientID, image.PatientName = series.patient, series.name
    image.PatientBirthDate, image.PatientSex = series.birth, series.sex
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = series.day
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = "101112"
    image.Modality, image.Manufacturer = series.modality, "SIEMENS"
    image.InstitutionName, image.ReferringPhysicianName = "General Hospital", "WHO^DOCTOR"
    image.SeriesDescription = image.ProtocolName = series.description
    image.SeriesNumber, image.AcquisitionNumber, image.InstanceNumber = series.number, 1, number
    image.ImageType = list(series.image_type)
    image.PatientPosition = "HFS"
    image.Rows, image.Columns = rows, columns
    image.PixelSpacing = list(series.spacing_mm[:2])
    image.SliceThickness = series.spacing_mm[2]
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.ImagePositionPatient = [-13.0, -14.0, series.spacing_mm[2] * place - 20]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    if series.modality == "MR":
        image.MRAcquisitionType, image.ScanningSequence, image.SequenceVariant = "3D", ["GR", "IR"], "SP"
        image.EchoTime, image.RepetitionTime, image.InversionTime = 2.98, 2300.0, 900.0
        image.FlipAngle, image.MagneticFieldStrength, image.EchoNumbers = 9.0, 3.0, 1
    if series.modality == "PT":
        _add_pet(image, series, frame, slices, number)
    voxels = np.random.default_rng(place).integers(0, 50, (rows, columns), dtype=np.uint16)
    voxels[3:-3, 3:-3] += np.uint16(900 + 10 * place + 100 * frame)
    image.PixelData = voxels.tobytes()
    for keyword, value in series.tags.items():
        if value is None:
            del image[keyword]
        else:
            setattr(image, keyword, value)
    return image


def _add_pet(image: FileDataset, series: Series, frame: int, slices: int, number: int) -> None:
    start, duration = series.frames[frame] if series.frames else (0.0, 1200.0)
    seconds = 10 * 3600 + 11 * 60 + 12 + round(start)
    image.AcquisitionTime = f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"
    image.FrameReferenceTime, image.ActualFrameDuration = (start + duration / 2) * 1000, int(duration * 1000)
    image.SeriesType = ["DYNAMIC" if series.frames else "STATIC", "IMAGE"]
    image.NumberOfSlices, image.NumberOfTimeSlices = slices, max(1, len(series.frames))
    image.ImageIndex = number
    image.Units, image.DecayCorrection = "BQML", "START"
    image.CorrectedImage = ["DECY", "ATTN", "SCAT"]
    image.RescaleSlope, image.RescaleIntercept = 2.0, 0.0
    image.RadiopharmaceuticalInformationSequence = [
        _item(
            Radiopharmaceutical=series.radiopharmaceutical,
            RadionuclideTotalDose=3.7e8,
            RadiopharmaceuticalStartTime="092000",
        )
    ]
