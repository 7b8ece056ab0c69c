"""Scans as LONI's archive packs them: `SUBJECT/DESCRIPTION/DATE_TIME/I<number>/`, in DICOM or NIfTI, of any study.

The table of the search (`idaSearch_….csv`) and the XML sidecars tell the description as it was before folders got their
names; where they are missing the folders' names do. A session is the day of the scan.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from permmoe.data.image_file import BrokenVolume
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.table_files import Row, column_key, read_table
from permmoe.preparation.progress import Progress, Step, counted, unseen
from permmoe.preparation.scan import PET, Scan
from permmoe.preparation.sources.archive import Told
from permmoe.preparation.sources.choosing import Candidate, day_label
from permmoe.preparation.sources.frame_files import FrameFile, scans_among
from permmoe.preparation.sources.image_facts import ImageFacts, is_image, read_facts
from permmoe.preparation.sources.series_rules import SeriesFacts, SeriesRules
from permmoe.preparation.sources.sidecars import Sidecars, frames_of
from permmoe.tracers import modality_of, tracer_in

ID, SUBJECT, MODALITY, DESCRIPTION = "Image Data ID", "Subject", "Modality", "Description"
"""Columns of the search's table."""
_DAY = re.compile(r"(\d{4})-(\d{2})-(\d{2})_\d{2}_\d{2}_\d{2}(?:\.\d+)?")
_IMAGE = re.compile(r"I?(\d+)", re.IGNORECASE)
_FRAME = re.compile(r"frame[\W_]*(\d+)", re.IGNORECASE)
_XML = re.compile(r".*_I(\d+)\.xml", re.IGNORECASE)


@dataclass(frozen=True)
class LoniDownload:
    """What lies beside the images of a download, by an image's number."""

    rows: Mapping[str, Row] = field(default_factory=dict)
    sidecars: Mapping[str, Path] = field(default_factory=dict)

    @staticmethod
    def among(files: Iterable[Path]) -> LoniDownload:
        """The tables and sidecars among files that were listed. Raises DataError for a table that cannot be read."""
        rows: dict[str, Row] = {}
        sidecars: dict[str, Path] = {}
        for file in files:
            if file.suffix.lower() == ".csv" and _is_of_a_search(file):
                table = read_table(file)
                rows |= {_number(row[column_key(ID)]): row for _, row in table.rows if row.get(column_key(ID))}
            elif match := _XML.fullmatch(file.name):
                sidecars[match[1]] = file
        return LoniDownload(rows, sidecars)

    def told(self, file: Path) -> Told | None:
        """What the archive tells of the series of a file; None for a file that does not lie as LONI packs it."""
        place = _place_of(file)
        if place is None:
            return None
        row = self.rows.get(place.number, {})
        sidecar = _read(self.sidecars[place.number]) if place.number in self.sidecars else {}
        description = row.get(column_key(DESCRIPTION)) or sidecar.get("description") or place.description
        scanner = _scanner(row.get(column_key(MODALITY)) or sidecar.get("modality") or file.name)
        return Told(place.subject_id, description, place.taken, scanner or ("PT" if tracer_in(description) else ""))

    def missing(self, files: Iterable[Path]) -> int:
        """How many images of the search's table have no file."""
        present = {place.number for file in files if (place := _place_of(file))}
        return len(self.rows.keys() - present)

    def scans(
        self, files: Sequence[Path], rules: SeriesRules, progress: Progress = unseen
    ) -> tuple[list[Candidate], list[Quarantined]]:
        """The scans that were downloaded as NIfTI, and what is left out of those; DICOM is not looked at here."""
        sidecars = Sidecars.among(files)
        folders: dict[Path, list[Path]] = defaultdict(list)
        for file in files:
            if is_image(file) and not file.name.lower().endswith(".hdr") and _place_of(file):
                folders[file.parent].append(file)
        scans: dict[Hashable, list[_Opened]] = defaultdict(list)
        items: list[Quarantined] = []
        for images in counted(folders.values(), Step.IMAGES_OPENED, progress):
            told = self.told(images[0])
            if told is None:
                continue
            try:
                opened = [_opened(file, told, rules, sidecars) for file in images]
                if len(opened) > 1 and not all(one.may_be_frame for one in opened):
                    raise BrokenVolume(Reason.SEVERAL_IMAGES)
                scans[_of_one_scan(opened[0])] += opened
            except BrokenVolume as broken:
                items.append(Quarantined(told.subject_id, "", str(images[0]), broken.reason))
        candidates: list[Candidate] = []
        for parts in scans.values():
            try:
                candidates.append(_candidate(parts))
            except BrokenVolume as broken:
                items += [Quarantined(p.told.subject_id, p.modality, str(p.file), broken.reason) for p in parts]
        return candidates, items


@dataclass(frozen=True)
class _Place:
    """What the folders above an image say."""

    subject_id: str
    description: str
    taken: date | None
    number: str


def _place_of(file: Path) -> _Place | None:
    parts = file.parts[-5:-1]
    if len(parts) < 4:
        return None
    subject, description, day, image = parts
    when, number = _DAY.fullmatch(day), re.fullmatch(r"[IS](\d+)", image, re.IGNORECASE)
    if when is None or number is None:
        return None
    try:
        taken = date(int(when[1]), int(when[2]), int(when[3]))
    except ValueError:
        taken = None
    return _Place(subject, description, taken, number[1])


@dataclass(frozen=True)
class _Opened:
    """An image whose header and sidecars were read."""

    file: Path
    told: Told
    modality: str
    tracer: str
    rank: int
    facts: ImageFacts
    said: Mapping[str, Any]

    @property
    def may_be_frame(self) -> bool:
        """Whether it is PET of one volume."""
        return self.modality in PET and self.facts.n_frames == 1

    @property
    def frame(self) -> int | None:
        """The number of the frame that the description says it is; None where it says nothing."""
        match = _FRAME.search(self.told.description)
        return int(match[1]) if match and self.may_be_frame else None


def _opened(file: Path, told: Told, rules: SeriesRules, sidecars: Sidecars) -> _Opened:
    kind = rules.kind_of(SeriesFacts(told.description, told.scanner))
    if isinstance(kind, Reason):
        raise BrokenVolume(kind)
    tracer = (kind.tracer or tracer_in(told.description) or "") if kind.name == "pet" else ""
    modality = modality_of(tracer) or kind.name
    if modality == "pet":
        raise BrokenVolume(Reason.OTHER_TRACER)
    return _Opened(file, told, modality, tracer, kind.rank, read_facts(file, modality), sidecars.of(file))


def _of_one_scan(opened: _Opened) -> Hashable:
    """What frames of one scan have in common, by their descriptions; of all others their folder, theirs alone."""
    if opened.frame is None:
        return opened.file.parent
    told = opened.told
    return told.subject_id, told.taken, opened.modality, _FRAME.sub("", told.description)


def _candidate(parts: Sequence[_Opened]) -> Candidate:
    """The scan of one file, or of its frames."""
    first, told = parts[0], parts[0].told
    files: tuple[Path, ...] = (first.file,)
    if len(parts) > 1 or first.frame is not None:
        of_one = [FrameFile(one.file, one.said, one.frame) for one in parts]
        [(files, frames)] = scans_among(of_one, are_frames=True)
    else:
        frames = frames_of(first.said, first.facts.n_frames) if first.modality in PET else None
    scan = Scan(told.subject_id, day_label(told.taken), first.modality, files, told.taken, first.tracer, frames)
    voxel_mm3 = first.facts.voxel_mm3
    return Candidate(
        scan.subject_id, scan.session, scan.modality, first.file, lambda: scan, told.taken, False, first.rank, voxel_mm3
    )


def _is_of_a_search(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            start = stream.read(2000)
    except OSError:
        return False
    return column_key(ID) in column_key(start.replace(b"\0", b"").decode("utf-8", errors="replace"))


def _number(text: str) -> str:
    match = _IMAGE.fullmatch(text.strip())
    return match[1] if match else text.strip()


def _scanner(text: str) -> Literal["", "MR", "PT"]:
    """From `MRI`, `PET`, or a file's name such as `ADNI_011_S_0002_MR_MPRAGE_….nii`."""
    words = re.split(r"[^A-Z]+", text.upper())
    return "MR" if {"MR", "MRI"} & {*words} else "PT" if {"PT", "PET"} & {*words} else ""


def _read(file: Path) -> dict[str, str]:
    """The texts of a sidecar's elements, by name, of which the first of a name counts; empty where it is no XML."""
    found: dict[str, str] = {}
    try:
        for _, element in ElementTree.iterparse(file):
            found.setdefault(element.tag.rpartition("}")[2], (element.text or "").strip())
    except (OSError, ElementTree.ParseError):
        return {}
    return found
