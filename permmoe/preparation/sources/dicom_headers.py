"""The headers of DICOM files, read quickly: a few elements each, and no pixels.

Names of files say nothing: a file is DICOM where it begins as one. Patients' names are not read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, BinaryIO

from permmoe.errors import ConfigurationError

NO_DICOM = (
    ".bval", ".bvec", ".css", ".csv", ".gz", ".hdr", ".html", ".jpg", ".js", ".json", ".log", ".mgh", ".mgz", ".nii",
    ".pdf", ".png", ".py", ".rtf", ".sh", ".tar", ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".zip",
)  # fmt: skip
"""Names that end so are not opened."""

TAGS = [
    "SOPInstanceUID", "SeriesInstanceUID", "PatientID", "PatientBirthDate", "PatientSex", "Modality",
    "SeriesDescription", "ProtocolName", "SequenceName", "ImageType", "MRAcquisitionType", "ContrastBolusAgent",
    "EchoTime", "InversionTime", "RepetitionTime", "SeriesNumber", "AcquisitionDate", "SeriesDate", "StudyDate",
    "ContentDate", "NumberOfSlices", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "CorrectedImage",
    "RadiopharmaceuticalInformationSequence",
]  # fmt: skip

DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "SequenceName")
IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN)
"""Transfer syntaxes that do not compress."""
DEFLATED = "1.2.840.10008.1.2.1.99"
_ITEM_DELIMITER = b"\xfe\xff\xdd\xe0"


@dataclass(frozen=True, slots=True)
class Header:
    """What is needed of one file."""

    file: Path
    instance: str
    series: str
    patient: str
    birth: str
    sex: str
    scanner: str
    """DICOM's Modality: MR, PT or any other."""
    description: str
    """Description, protocol and sequence name."""
    image_type: tuple[str, ...]
    is_3d: bool | None
    has_contrast: bool
    is_attenuation_corrected: bool | None
    echo_time_ms: float | None
    inversion_time_ms: float | None
    repetition_time_ms: float | None
    series_number: int
    taken: date | None
    n_slices: int | None
    """How many slices a frame of PET has, as the scanner says."""
    position_mm: tuple[float, ...]
    """Of the first voxel, patient coordinates; empty where the file does not say it at its top."""
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    """Between rows and between columns, and the slice's thickness."""
    n_images: int
    """How many slices this file holds; 0 where it holds no image."""
    radiopharmaceutical: str
    is_native: bool
    """Whether its pixels are not compressed."""
    is_whole: bool


def read_headers(files: Iterable[Path]) -> tuple[list[Header], list[Path]]:
    """The headers of all files that are DICOM, and the files that begin as DICOM and cannot be read.

    Raises ConfigurationError where there are any and the extra `prepare` is not installed.
    """
    headers: list[Header] = []
    broken: list[Path] = []
    for file in files:
        if file.suffix.lower() in NO_DICOM:
            continue
        try:
            with file.open("rb") as stream:
                if not _begins_as_dicom(stream):
                    continue
                header = _read(file, stream)
        except OSError:
            broken.append(file)
            continue
        if header is None:
            broken.append(file)
        elif header.series:
            headers.append(header)
    return headers, broken


def _begins_as_dicom(stream: BinaryIO) -> bool:
    """Whether a file has DICOM's mark, or begins with an element of its first groups, as older files do."""
    start = stream.read(132)
    stream.seek(0)
    is_bare = len(start) == 132 and start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00"
    return start[128:] == b"DICM" or is_bare


def _read(file: Path, stream: BinaryIO) -> Header | None:
    """None for a file whose header cannot be read; a header without series for a directory of files (DICOMDIR)."""
    try:
        from pydicom import dcmread
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise ConfigurationError("DICOM needs the package pydicom; install permmoe[prepare]") from None
    try:
        found = dcmread(stream, stop_before_pixels=True, specific_tags=TAGS, force=True)
        header = _header(file, found, stream)
    except (InvalidDicomError, EOFError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
        return None
    is_directory = str(found.file_meta.get("MediaStorageSOPClassUID", "")) == "1.2.840.10008.1.3.10"
    return header if header.series or is_directory else None


def _header(file: Path, found: Any, stream: BinaryIO) -> Header:
    syntax = str(found.file_meta.get("TransferSyntaxUID", IMPLICIT))
    scanner = _text(found, "Modality")
    corrections = _words(found, "CorrectedImage")
    n_images = (_whole(found, "NumberOfFrames") or 1) if _whole(found, "Rows") else 0
    bits = (_whole(found, "BitsAllocated") or 0) * (_whole(found, "SamplesPerPixel") or 1)
    n_bytes = n_images * (_whole(found, "Rows") or 0) * (_whole(found, "Columns") or 0) * bits // 8
    return Header(
        file=file,
        instance=_text(found, "SOPInstanceUID"),
        series=_text(found, "SeriesInstanceUID"),
        patient=_text(found, "PatientID"),
        birth=_text(found, "PatientBirthDate"),
        sex=_text(found, "PatientSex"),
        scanner=scanner,
        description=" ".join(filter(None, (_text(found, key) for key in DESCRIPTIONS))),
        image_type=_words(found, "ImageType"),
        is_3d={"3D": True, "2D": False}.get(_text(found, "MRAcquisitionType")),
        has_contrast=bool(_text(found, "ContrastBolusAgent")),
        is_attenuation_corrected="ATTN" in corrections if corrections else None,
        echo_time_ms=_number(found, "EchoTime"),
        inversion_time_ms=_number(found, "InversionTime"),
        repetition_time_ms=_number(found, "RepetitionTime"),
        series_number=_whole(found, "SeriesNumber") or 0,
        taken=_day(found),
        n_slices=_whole(found, "NumberOfSlices") if scanner == "PT" else None,
        position_mm=_numbers(found, "ImagePositionPatient"),
        orientation=_numbers(found, "ImageOrientationPatient"),
        spacing_mm=(*_numbers(found, "PixelSpacing"), *_numbers(found, "SliceThickness")),
        n_images=n_images,
        radiopharmaceutical=_radiopharmaceutical(found),
        is_native=syntax in NATIVE,
        is_whole=not n_images or _has_all_pixels(stream, file.stat().st_size, syntax, n_bytes),
    )


def _has_all_pixels(stream: BinaryIO, size: int, syntax: str, n_bytes: int) -> bool:
    """Whether a file is as long as its header says; the stream stands before the pixels."""
    if syntax == DEFLATED:
        return True
    start = stream.tell()
    group = stream.read(2)
    if group != (b"\x7f\xe0" if syntax == BIG_ENDIAN else b"\xe0\x7f"):
        return False
    if syntax in NATIVE:
        return size - start - (8 if syntax == IMPLICIT else 12) >= n_bytes
    stream.seek(max(start, size - 4096))
    return _ITEM_DELIMITER in stream.read()


def _radiopharmaceutical(found: Any) -> str:
    """What the header names as tracer: free text and the meaning of the code; never the patient's dose."""
    names = []
    for dose in found.get("RadiopharmaceuticalInformationSequence") or []:
        names.append(_text(dose, "Radiopharmaceutical"))
        names += [_text(code, "CodeMeaning") for code in dose.get("RadiopharmaceuticalCodeSequence") or []]
    return " ".join(filter(None, names))


def _day(found: Any) -> date | None:
    for key in ("AcquisitionDate", "SeriesDate", "StudyDate", "ContentDate"):
        digits = _text(found, key).replace(".", "").replace("-", "")[:8]
        try:
            return datetime.strptime(digits, "%Y%m%d").date()
        except ValueError:
            continue
    return None


def _text(found: Any, key: str) -> str:
    value = found.get(key)
    return "" if value is None else str(value).strip().strip("\0")


def _words(found: Any, key: str) -> tuple[str, ...]:
    value = found.get(key)
    if value is None:
        return ()
    return tuple(str(word).strip().upper() for word in ([value] if isinstance(value, str) else value))


def _numbers(found: Any, key: str) -> tuple[float, ...]:
    value = found.get(key)
    if value is None or isinstance(value, str):
        return ()
    try:
        return tuple(float(number) for number in (value if hasattr(value, "__iter__") else (value,)))
    except ValueError:
        return ()


def _number(found: Any, key: str) -> float | None:
    return next(iter(_numbers(found, key)), None)


def _whole(found: Any, key: str) -> int | None:
    number = _number(found, key)
    return None if number is None else int(number)
