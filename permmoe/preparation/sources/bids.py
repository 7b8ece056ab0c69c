"""Scans in BIDS form, of any subject naming and with or without sessions, and in Clinica's CAPS.

PET's tracer and frames are told by its name and its JSON sidecars. What was prepared here before is passed over, and so
is what is no magnitude image (`part-phase`). BIDS keeps what images were made from in `sourcedata`: it is not entered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from permmoe.data.image_file import BrokenVolume
from permmoe.data.image_names import ImageName, image_name
from permmoe.data.images import FoundImage, images_among
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.template import TEMPLATE
from permmoe.preparation.progress import Progress, Step, counted, unseen
from permmoe.preparation.scan import PET, Frames, Scan
from permmoe.preparation.sources.choosing import Candidate, day_label
from permmoe.preparation.sources.frame_files import FrameFile, grid_of, number_of, scan_name, scans_among
from permmoe.preparation.sources.image_facts import ImageFacts, read_facts
from permmoe.preparation.sources.person import Person
from permmoe.preparation.sources.sidecars import Sidecars, frames_of, tracer_of
from permmoe.tracers import names_another


def bids_scans(files: Sequence[Path], progress: Progress = unseen) -> tuple[list[Candidate], list[Quarantined]]:
    """The scans among files that were listed, and what is left out. None is no error.

    Raises DataError where a table of sessions, scans or participants cannot be read.
    """
    sidecars = Sidecars.among(files)
    raw = [file for file in files if not _is_of_no_use(file)]
    found = images_among(raw, tracer_of=lambda file: tracer_of(sidecars.of(file)))
    candidates: list[Candidate] = []
    items = [_other_pet(file) for file in found.other_pet]
    first_days = _first_days(found.images)
    scans: dict[Hashable, list[_Opened]] = defaultdict(list)
    lacking: set[Hashable] = set()
    for image in counted(found.images, Step.IMAGES_OPENED, progress):
        session = image.session or day_label(first_days.get(image.subject_id))
        try:
            opened = _opened(image, session, sidecars)
            scans[_of_one_scan(opened)].append(opened)
        except BrokenVolume as broken:
            items.append(_left_out(image, broken))
            lacking.add(_of_frames(image))
    for scan, opened_files in scans.items():
        try:
            candidates += _candidates(opened_files, lacks_frames=scan in lacking)
        except BrokenVolume as broken:
            items += [_left_out(one.image, broken) for one in opened_files]
    return candidates, items


def without_sources(files: Iterable[Path], root: Path) -> list[Path]:
    """The files without those in a `sourcedata` folder under `root`."""
    return [file for file in files if "sourcedata" not in file.relative_to(root).parts[:-1]]


def _first_days(images: Iterable[FoundImage]) -> dict[str, date]:
    """Of subjects without sessions: all that they have is one session, which has the name of its first day."""
    days: dict[str, date] = {}
    for image in images:
        if not image.session and image.taken:
            days[image.subject_id] = min(image.taken, days.get(image.subject_id, image.taken))
    return days


@dataclass(frozen=True)
class _Opened:
    """An image whose header and sidecars were read."""

    image: FoundImage
    session: str
    facts: ImageFacts
    said: Mapping[str, Any]

    @property
    def is_derived(self) -> bool:
        """Whether somebody has registered it, or processed it otherwise."""
        name = image_name(self.image.path.name)
        return self.image.is_registered or bool(name and {"space", "desc"} & name.entities.keys())


def _opened(image: FoundImage, session: str, sidecars: Sidecars) -> _Opened:
    said = sidecars.of(image.path)
    facts = read_facts(image.path, image.modality)
    if image.modality in PET and names_another(str(said.get("TracerName") or ""), image.tracer):
        raise BrokenVolume(Reason.TWO_TRACERS)
    return _Opened(image, session, facts, said)


def _of_frames(image: FoundImage) -> Hashable | None:
    """What files have in common whose names say that they are frames of one scan; None for others."""
    name = scan_name(image.path)
    is_frame = image.modality in PET and name is not None and name[1]
    return (image.path.parent, image.modality, name) if is_frame else None


def _of_one_scan(opened: _Opened) -> Hashable:
    """What files have in common that may be frames of one scan; of all others their path, which is theirs alone."""
    path = opened.image.path
    name = scan_name(path)
    if opened.image.modality not in PET or opened.facts.n_frames > 1 or opened.is_derived or name is None:
        return path
    return _of_frames(opened.image) or (path.parent, opened.image.modality, name, grid_of(path))


def _candidates(files: Sequence[_Opened], *, lacks_frames: bool) -> list[Candidate]:
    """The scans of one file, or of files that may be frames of one scan, some of which cannot be read."""
    first = files[0]
    if first.image.modality not in PET:
        return [_candidate(first, (first.image.path,), None)]
    if first.facts.n_frames > 1 or first.is_derived:
        return [_candidate(first, (first.image.path,), frames_of(first.said, first.facts.n_frames))]
    if lacks_frames:
        raise BrokenVolume(Reason.FRAME_FILES_APART)
    by_path = {one.image.path: one for one in files}
    frames = [FrameFile(path, one.said, number_of(path)) for path, one in by_path.items()]
    parts = scans_among(frames, are_frames=_of_frames(first.image) is not None)
    return [_candidate(by_path[paths[0]], paths, times) for paths, times in parts]


def _candidate(opened: _Opened, paths: tuple[Path, ...], frames: Frames | None) -> Candidate:
    image, said = opened.image, opened.said
    scan = Scan(
        image.subject_id,
        opened.session,
        image.modality,
        paths,
        image.taken,
        image.tracer,
        frames,
        image.is_registered,
        image.region,
    )
    return Candidate(
        scan.subject_id,
        scan.session,
        scan.modality,
        image.path,
        lambda: scan,
        scan.taken,
        is_derived=opened.is_derived,
        voxel_mm3=opened.facts.voxel_mm3,
        number=_run(image_name(image.path.name)),
        person=Person.of(said.get("PatientBirthDate"), said.get("PatientSex")),
    )


def _run(name: ImageName | None) -> int:
    """The number of the run; a scan without a number is the first."""
    run = name.entities.get("run", "") if name else ""
    return int(run) if run.isdecimal() else 0


def _is_of_no_use(file: Path) -> bool:
    """Whether an image shows a phase, or was prepared here."""
    name = image_name(file.name)
    if name is None:
        return False
    is_prepared = name.entities.get("space") == TEMPLATE and name.entities.get("desc") in ("brain", "suvr")
    return is_prepared or name.entities.get("part", "mag") != "mag"


def _left_out(image: FoundImage, broken: BrokenVolume) -> Quarantined:
    return Quarantined(image.subject_id, image.modality, str(image.path), broken.reason)


def _other_pet(file: Path) -> Quarantined:
    name = image_name(file.name)
    return Quarantined(name.subject_id if name else "", "", str(file), Reason.OTHER_TRACER)
