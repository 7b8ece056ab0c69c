"""Scans in BIDS form, of any subject naming and with or without sessions, and in Clinica's CAPS.

PET's tracer and frames are told by its name and its JSON sidecars. What was prepared here before is passed over, and so
is what is no magnitude image (`part-phase`). BIDS keeps what images were made from in `sourcedata`: it is not entered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from permmoe.preparation.sources.image_facts import read_facts
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
    for image in counted(found.images, Step.IMAGES_OPENED, progress):
        session = image.session or day_label(first_days.get(image.subject_id))
        try:
            candidates.append(_candidate(image, session, sidecars))
        except BrokenVolume as broken:
            items.append(Quarantined(image.subject_id, image.modality, str(image.path), broken.reason))
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


def _candidate(image: FoundImage, session: str, sidecars: Sidecars) -> Candidate:
    facts = read_facts(image.path, image.modality)
    said = sidecars.of(image.path)
    frames = _frames(image, said, facts.n_frames)
    scan = Scan(
        image.subject_id,
        session,
        image.modality,
        (image.path,),
        image.taken,
        image.tracer,
        frames,
        image.is_registered,
        image.region,
    )
    name = image_name(image.path.name)
    return Candidate(
        scan.subject_id,
        scan.session,
        scan.modality,
        image.path,
        lambda: scan,
        scan.taken,
        is_derived=scan.is_registered or bool(name and {"space", "desc"} & name.entities.keys()),
        voxel_mm3=facts.voxel_mm3,
        number=_run(name),
        person=Person.of(said.get("PatientBirthDate"), said.get("PatientSex")),
    )


def _frames(image: FoundImage, said: Mapping[str, Any], n_frames: int) -> Frames | None:
    if image.modality not in PET:
        return None
    if names_another(str(said.get("TracerName") or ""), image.tracer):
        raise BrokenVolume(Reason.TWO_TRACERS)
    return frames_of(said, n_frames)


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


def _other_pet(file: Path) -> Quarantined:
    name = image_name(file.name)
    return Quarantined(name.subject_id if name else "", "", str(file), Reason.OTHER_TRACER)
