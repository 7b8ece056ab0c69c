"""The headers of DICOM files, read quickly: a few elements each, and no pixels.

Names of files say nothing: a file is DICOM where it begins as one. Patients' names are not read.
"""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, BinaryIO

from permmoe.data.image_file import why_unread
from permmoe.data.reasons import Reason
from permmoe.errors import ConfigurationError
from permmoe.preparation.progress import Progress, Step, unseen
from permmoe.runtime.workers import worker_pool

Values = Mapping[str, Any]
"""A header's values by their keywords."""

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
    "RadiopharmaceuticalInformationSequence", "SharedFunctionalGroupsSequence", "StudyInstanceUID",
    "FrameOfReferenceUID", "AcquisitionTime", "FrameReferenceTime", "ActualFrameDuration",
]  # fmt: skip

DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "SequenceName")
IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN)
"""Transfer syntaxes that do not compress."""
AT_ONCE = 250
"""Files that a process reads before it tells of them."""
FEW = 2000
"""So many files are not worth another process."""
IMAGES = tuple(f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("2", "4", "128"))
"""How the classes of images of CT, MR and PET begin."""
DIRECTORY = "1.2.840.10008.1.3.10"
"""Class of a DICOMDIR, which lists files and holds no image."""
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
    study: str
    frame_of_reference: str
    """What scans of one patient in one position have in common; empty where it is not told."""
    seconds: float | None
    """PET: when this frame began, since midnight."""
    reference_seconds: float | None
    """PET: the middle of this frame, since the scan's start."""
    frame_seconds: float | None
    """PET: how long this frame lasted."""
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


def read_headers(
    files: Sequence[Path], workers: int = 1, progress: Progress = unseen
) -> tuple[list[Header], dict[Path, Reason]]:
    """As `read_some_headers`, by so many processes where there are many files. The result does not depend on them."""
    candidates = [file for file in files if file.suffix.lower() not in NO_DICOM]
    parts = [candidates[start : start + AT_ONCE] for start in range(0, len(candidates), AT_ONCE)]
    headers: list[Header] = []
    broken: dict[Path, Reason] = {}
    done = 0
    with worker_pool(workers, threads=1) if workers > 1 and len(candidates) > FEW else nullcontext() as pool:
        each = pool.map(read_some_headers, parts) if pool else map(read_some_headers, parts)
        for part, (some, some_broken) in zip(parts, each, strict=True):
            headers += some
            broken |= some_broken
            done += len(part)
            progress(Step.DICOM_OPENED, done, len(candidates))
    return headers, broken


def read_some_headers(files: Iterable[Path]) -> tuple[list[Header], dict[Path, Reason]]:
    """The headers of all files that are DICOM, and the files that cannot be opened, or begin as DICOM and are damaged.

    Raises ConfigurationError where there are any and the extra `prepare` is not installed.
    """
    headers: list[Header] = []
    broken: dict[Path, Reason] = {}
    with _in_silence():
        for file in files:
            try:
                with file.open("rb") as stream:
                    if not _begins_as_dicom(stream):
                        continue
                    header = _read(file, stream)
            except OSError as error:
                broken[file] = why_unread(error)
                continue
            if isinstance(header, Header):
                headers.append(header)
            elif header is not None:
                broken[file] = header
    return headers, broken


@contextmanager
def _in_silence() -> Iterator[None]:
    """pydicom warns of odd values and quotes them; what a header says of a patient belongs in no log."""
    logger = logging.getLogger("pydicom")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled


def _begins_as_dicom(stream: BinaryIO) -> bool:
    """Whether a file has DICOM's mark, or begins with an element of its first groups, as older files do."""
    start = stream.read(132)
    stream.seek(0)
    is_bare = len(start) == 132 and start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00"
    return start[128:] == b"DICM" or is_bare


def _read(file: Path, stream: BinaryIO) -> Header | Reason | None:
    """The header; why there is none; None for a list of files (DICOMDIR)."""
    try:
        from pydicom import dcmread
    except ImportError:
        raise ConfigurationError("DICOM needs the package pydicom; install permmoe[prepare]") from None
    try:
        found = dcmread(stream, stop_before_pixels=True, specific_tags=TAGS, force=True)
        values, meta = _values(found), {element.keyword: str(element.value) for element in found.file_meta}
    except OSError:
        raise
    except Exception:  # Whatever damaged bytes lead pydicom to: it promises no set of errors.
        return Reason.TRUNCATED_DICOM
    header = _header(file, values, meta.get("TransferSyntaxUID", IMPLICIT), stream)
    if header.series:
        return header
    kind = meta.get("MediaStorageSOPClassUID", "")
    if kind == DIRECTORY:
        return None
    # An image belongs to a series: one that names none was cut off before. Other objects, such as palettes, need not.
    return Reason.TRUNCATED_DICOM if not kind or kind.startswith(IMAGES) else Reason.OTHER_SERIES


def _header(file: Path, values: Values, syntax: str, stream: BinaryIO) -> Header:
    scanner = _text(values, "Modality")
    corrections = _words(values, "CorrectedImage")
    n_images = (_whole(values, "NumberOfFrames") or 1) if _whole(values, "Rows") else 0
    bits = (_whole(values, "BitsAllocated") or 0) * (_whole(values, "SamplesPerPixel") or 1)
    n_bytes = n_images * (_whole(values, "Rows") or 0) * (_whole(values, "Columns") or 0) * bits // 8
    return Header(
        file=file,
        instance=_text(values, "SOPInstanceUID"),
        series=_text(values, "SeriesInstanceUID"),
        patient=_text(values, "PatientID"),
        birth=_text(values, "PatientBirthDate"),
        sex=_text(values, "PatientSex"),
        scanner=scanner,
        description=" ".join(filter(None, (_text(values, key) for key in DESCRIPTIONS))),
        image_type=_words(values, "ImageType"),
        is_3d={"3D": True, "2D": False}.get(_text(values, "MRAcquisitionType")),
        has_contrast=bool(_text(values, "ContrastBolusAgent")),
        is_attenuation_corrected="ATTN" in corrections if corrections else None,
        echo_time_ms=_number(values, "EchoTime", "EffectiveEchoTime"),
        inversion_time_ms=_number(values, "InversionTime", "InversionTimes"),
        repetition_time_ms=_number(values, "RepetitionTime"),
        series_number=_whole(values, "SeriesNumber") or 0,
        taken=_day(values),
        study=_text(values, "StudyInstanceUID"),
        frame_of_reference=_text(values, "FrameOfReferenceUID"),
        seconds=_seconds_of_day(_text(values, "AcquisitionTime")),
        reference_seconds=_milliseconds(values, "FrameReferenceTime"),
        frame_seconds=_milliseconds(values, "ActualFrameDuration"),
        n_slices=_whole(values, "NumberOfSlices") if scanner == "PT" else None,
        position_mm=_numbers(values, "ImagePositionPatient"),
        orientation=_numbers(values, "ImageOrientationPatient"),
        spacing_mm=(*_numbers(values, "PixelSpacing"), *_numbers(values, "SliceThickness")),
        n_images=n_images,
        radiopharmaceutical=_text(values, "Radiopharmaceutical"),
        is_native=syntax in NATIVE,
        is_whole=not n_images or _has_all_pixels(stream, file.stat().st_size, syntax, n_bytes),
    )


def _values(found: Any) -> Values:
    """All elements, decoded, by keyword; what a file of many slices says once for all of them is beside the others."""
    shared = {
        element.keyword: element.value
        for group in found.get("SharedFunctionalGroupsSequence") or []
        for sequence in group
        if sequence.VR == "SQ"
        for item in sequence.value
        for element in item
    }
    own = {element.keyword: element.value for element in found}
    return shared | own | {"Radiopharmaceutical": _radiopharmaceutical(found)}


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
        names.append(dose.get("Radiopharmaceutical"))
        names += [code.get("CodeMeaning") for code in dose.get("RadiopharmaceuticalCodeSequence") or []]
    return " ".join(str(name) for name in names if name)


def _day(found: Values) -> date | None:
    for key in ("AcquisitionDate", "SeriesDate", "StudyDate", "ContentDate"):
        digits = _text(found, key).replace(".", "").replace("-", "")[:8]
        try:
            return datetime.strptime(digits, "%Y%m%d").date()
        except ValueError:
            continue
    return None


def _seconds_of_day(text: str) -> float | None:
    """Of a time as `101112.5`; None for any other text."""
    match = re.fullmatch(r"(\d\d):?(\d\d):?(\d\d(?:\.\d+)?)", text)
    return None if match is None else 3600.0 * int(match[1]) + 60.0 * int(match[2]) + float(match[3])


def _milliseconds(found: Values, key: str) -> float | None:
    """A time that is written in milliseconds, in seconds."""
    number = _number(found, key)
    return None if number is None or not math.isfinite(number) else number / 1000


def _text(found: Values, key: str) -> str:
    value = found.get(key)
    return "" if value is None else str(value).strip().strip("\0")


def _words(found: Values, key: str) -> tuple[str, ...]:
    value = found.get(key)
    if value is None:
        return ()
    return tuple(str(word).strip().upper() for word in ([value] if isinstance(value, str) else value))


def _numbers(found: Values, key: str) -> tuple[float, ...]:
    value = found.get(key)
    if value is None or isinstance(value, str):
        return ()
    try:
        return tuple(float(number) for number in (value if hasattr(value, "__iter__") else (value,)))
    except (TypeError, ValueError):
        return ()


def _number(found: Values, *keys: str) -> float | None:
    """The first number of the first of these elements that has one."""
    return next((number for key in keys for number in _numbers(found, key)), None)


def _whole(found: Values, key: str) -> int | None:
    number = _number(found, key)
    return None if number is None or not math.isfinite(number) else int(number)
