"""Find brain images where Clinica puts them: its BIDS folder (`adni-to-bids`) and its CAPS folder (pipelines' output).

BIDS: `sub-ADNI011S0002/ses-M000/anat/…_T1w.nii.gz`, `…_FLAIR.nii.gz`, `pet/…_trc-18FAV45_pet.nii.gz`. CAPS:
`subjects/sub-…/ses-…/{t1_linear,flair_linear,pet_linear}/…`, registered. Both may lie under one folder. Subjects may
also be called as in ADNI's tables, `011_S_0002`.

An image's day is that of its own row in `sub-…_ses-…_scans.tsv` (`acq_time`), else that of its session in
`sub-…_sessions.tsv` (`examination_date` or `acq_time`). A session's dates serve both folders.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import TypeVar

from permmoe.data.dates import date_reader
from permmoe.data.table_files import TableFile, column_key, read_table
from permmoe.data.tracers import modality_of
from permmoe.errors import DataError

KeyT = TypeVar("KeyT")

FOLDERS = {
    "anat": "raw",
    "pet": "raw",
    "t1_linear": "registered",
    "flair_linear": "registered",
    "pet_linear": "registered",
}
SUBJECT = r"(?:sub-)?(?:ADNI)?(?P<site>\d{3})_?S_?(?P<rid>\d{4,5})"
IMAGE_NAME = re.compile(
    SUBJECT + r"_ses-(?P<session>[a-z0-9]+)_(?P<entities>.*_)?(?P<suffix>T1w|FLAIR|pet)\.nii(?:\.gz)?", re.IGNORECASE
)
SESSIONS_NAME = re.compile(SUBJECT + r"_sessions\.tsv", re.IGNORECASE)
SCANS_NAME = re.compile(SUBJECT + r"_ses-(?P<session>[a-z0-9]+)_scans\.tsv", re.IGNORECASE)
SESSION_DATES = ("examination_date", "acq_time")
FIRST_YEAR = 1925
"""BIDS shifts the dates of anonymised data to before this year; they date nothing."""


@dataclass(frozen=True)
class FoundImage:
    """An image, whose it is and when it was taken."""

    subject_id: str
    """ADNI's PTID, as `011_S_0002`."""
    session: str
    """Clinica's label: `M` and the months since the first visit."""
    modality: str
    path: Path
    is_registered: bool
    """From a CAPS folder: in MNI space, and PET as SUVR."""
    taken: date | None
    """None where no table tells."""

    @property
    def rid(self) -> int:
        """ADNI's roster number, which a subject keeps across phases."""
        return int(self.subject_id.rsplit("_", 1)[1])


@dataclass(frozen=True)
class FoundImages:
    """The images under a folder, by subject, session, modality and path."""

    images: tuple[FoundImage, ...]
    other_tracers: Mapping[str, int]
    """How many PET images were left aside, by the label of their tracer; `none` where the name has no label."""


@dataclass(frozen=True)
class _Dates:
    """Days by (subject, session), and by an image's (subject, session, kind of image)."""

    sessions: Mapping[tuple[str, str], date]
    scans: Mapping[tuple[str, str, str], date]


def find_images(folder: Path) -> FoundImages:
    """Every T1, FLAIR, amyloid and tau image under a folder.

    Raises DataError where the folder does not exist or holds none, and where a table of sessions cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"no folder of images at {folder}", for_log="the folder of images is away")
    files = sorted(_files(folder))
    dates = _Dates(_session_dates(files), _scan_dates(files))
    named = [(file, match) for file in files if (match := IMAGE_NAME.fullmatch(file.name))]
    images: list[FoundImage] = []
    left_aside: Counter[str] = Counter()
    for file, match in named:
        found = _image_of(file, match, dates)
        if isinstance(found, FoundImage):
            images.append(found)
        elif found is not None:
            left_aside[found] += 1
    if not images:
        raise DataError(
            f"no T1, FLAIR, amyloid or tau image under {folder}; expected Clinica's BIDS or CAPS layout, as "
            "sub-ADNI011S0002/ses-M000/anat/sub-ADNI011S0002_ses-M000_T1w.nii.gz. For any other layout write a "
            "manifest",
            for_log="the folder of images holds no image in Clinica's BIDS or CAPS layout",
        )
    ordered = tuple(sorted(images, key=lambda i: (i.subject_id, i.session, i.modality, str(i.path))))
    return FoundImages(ordered, dict(sorted(left_aside.items())))


def _files(folder: Path) -> Iterator[Path]:
    """Every file under a folder, through links to folders, each folder once: links may form a circle."""
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
        else:
            seen.add(real)
            yield from (Path(root) / name for name in names)


def _image_of(file: Path, match: re.Match[str], dates: _Dates) -> FoundImage | str | None:
    """The image that a file name declares; the tracer's label for other PET; None for what is no image of a visit."""
    kind = FOLDERS.get(file.parent.name)
    if kind is None:
        return None
    entities = _entities(match)
    # pet_linear also keeps intermediate images; only the registered uptake ratio carries both entities.
    if file.parent.name == "pet_linear" and not {"suvr", "space"} <= entities.keys():
        return None
    label, suffix = _label(match), match["suffix"].lower()
    modality = modality_of(label) if suffix == "pet" else {"t1w": "t1", "flair": "flair"}[suffix]
    if modality is None:
        return label
    subject, session = _subject(match), match["session"].upper()
    own = dates.scans.get((subject, session, _stem(file.name))) or dates.scans.get((subject, session, _sort(match)))
    taken = own or dates.sessions.get((subject, session))
    return FoundImage(subject, session, modality, file, kind == "registered", taken)


def _subject(match: re.Match[str]) -> str:
    return f"{match['site']}_S_{match['rid']}"


def _entities(match: re.Match[str]) -> dict[str, str]:
    return dict(part.split("-", 1) for part in (match["entities"] or "").split("_") if "-" in part)


def _label(match: re.Match[str]) -> str:
    """The tracer of a PET image; `none` where its name has none. Older versions of Clinica wrote it under `acq`."""
    entities = _entities(match)
    return entities.get("trc") or entities.get("acq") or "none"


def _sort(match: re.Match[str]) -> str:
    """What an image is, whichever folder it lies in: tables date those of the BIDS folder, and those made from them."""
    suffix = match["suffix"].lower()
    return f"{suffix} {_label(match).lower()}" if suffix == "pet" else suffix


def _stem(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".nii")


def _session_dates(files: Iterable[Path]) -> dict[tuple[str, str], date]:
    """The days of the sessions that any `sub-…_sessions.tsv` dates; their columns are read as one."""
    cells: list[tuple[tuple[str, str], str]] = []
    for file in files:
        if match := SESSIONS_NAME.fullmatch(file.name):
            table = read_table(file)
            column = _column(table, SESSION_DATES)
            label = _column(table, ("session_id",))
            if column and label:
                for _, row in table.rows:
                    session = row.get(label, "").removeprefix("ses-").upper()
                    cells.append(((_subject(match), session), row.get(column, "")))
    return _read(cells, "examination_date of the tables of sessions")


def _scan_dates(files: Iterable[Path]) -> dict[tuple[str, str, str], date]:
    """The days of the images that any `sub-…_ses-…_scans.tsv` dates; their columns are read as one."""
    cells: list[tuple[tuple[str, str, str], str]] = []
    for file in files:
        if match := SCANS_NAME.fullmatch(file.name):
            table = read_table(file)
            column, name = _column(table, ("acq_time",)), _column(table, ("filename",))
            if column and name:
                for _, row in table.rows:
                    visit, file_name = (_subject(match), match["session"].upper()), PurePath(row.get(name, "")).name
                    cells.append(((*visit, _stem(file_name)), row.get(column, "")))
                    if image := IMAGE_NAME.fullmatch(file_name):
                        cells.append(((*visit, _sort(image)), row.get(column, "")))
    return _read(cells, "acq_time of the tables of scans")


def _read(cells: Sequence[tuple[KeyT, str]], column: str) -> dict[KeyT, date]:
    read = date_reader((text for _, text in cells), column)
    return {key: day for key, text in cells if (day := read(text)) is not None and day.year >= FIRST_YEAR}


def _column(table: TableFile, names: Sequence[str]) -> str | None:
    """The key of the first of these columns that the table has; None where it has none and none that looks alike.

    Raises DataError for a column whose name is nearly one of these.
    """
    for name in names:
        if table.has(name):
            return column_key(name)
    for name in names:
        if similar := get_close_matches(column_key(name), [column_key(column) for column in table.header], 1, 0.8):
            raise DataError(
                f"{table.path} has a column {similar[0]!r}; did you mean {name!r}? Rename it in every table"
            )
    return None
