"""Scans in BIDS form, of any subject naming and with or without sessions, and in Clinica's CAPS.

PET's tracer and frames are told by its name and its JSON sidecars. What was prepared here before is passed over, and so
is what is no magnitude image (`part-phase`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from permmoe.data.image_file import BrokenVolume
from permmoe.data.image_names import ImageName, image_name
from permmoe.data.images import FoundImage, images_among
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.template import TEMPLATE
from permmoe.preparation.scan import PET, Scan
from permmoe.preparation.sources.choosing import Candidate, choose
from permmoe.preparation.sources.found import FoundScans
from permmoe.preparation.sources.image_facts import read_facts
from permmoe.preparation.sources.sidecars import Sidecars, frames_of, tracer_of


def bids_scans(files: Sequence[Path], today: date) -> FoundScans:
    """The scans among files that were listed, one of each modality and session. None is no error.

    Raises DataError where a table of sessions, scans or participants cannot be read.
    """
    sidecars = Sidecars.among(files)
    raw = [file for file in files if not _is_of_no_use(file)]
    found = images_among(raw, tracer_of=lambda file: tracer_of(sidecars.of(file)))
    candidates: list[Candidate] = []
    items = [_other_pet(file) for file in found.other_pet]
    for image in found.images:
        try:
            candidates.append(_candidate(image, sidecars, today))
        except BrokenVolume as broken:
            items.append(Quarantined(image.subject_id, image.modality, str(image.path), broken.reason))
    return choose(candidates) + FoundScans(left_out=Quarantine(tuple(items)))


def session_of(label: str, taken: date | None) -> str:
    """A session's label; where its source has none the day, as 20190301, and without a day 1."""
    return label or (f"{taken:%Y%m%d}" if taken else "1")


def require_past(taken: date | None, today: date) -> None:
    """Raise BrokenVolume for a day that is still to come."""
    if taken is not None and taken > today:
        raise BrokenVolume(Reason.FUTURE_DATE)


def _candidate(image: FoundImage, sidecars: Sidecars, today: date) -> Candidate:
    require_past(image.taken, today)
    facts = read_facts(image.path, image.modality)
    name = image_name(image.path.name)
    frames = None
    if image.modality in PET:
        said = sidecars.of(image.path)
        if _names_another(said, image.tracer):
            raise BrokenVolume(Reason.TWO_TRACERS)
        frames = frames_of(said, facts.n_frames)
    scan = Scan(
        image.subject_id,
        session_of(image.session, image.taken),
        image.modality,
        (image.path,),
        image.taken,
        image.tracer,
        frames,
        image.is_registered,
        image.region,
    )
    return Candidate(scan, facts.voxel_mm3, order=_repeat(name))


def _names_another(said: Mapping[str, Any], tracer: str) -> bool:
    """Whether a sidecar names another tracer than the image's; an isotope alone, as 18F, is no name."""
    told = re.sub(r"18F|F18|11C|C11|[^A-Z]", "", str(said.get("TracerName") or "").upper())
    return bool(told) and tracer_of(said) != tracer


def _repeat(name: ImageName | None) -> tuple[int]:
    """The number of the run; a scan without a number is the first."""
    run = name.entities.get("run", "") if name else ""
    return (int(run) if run.isdecimal() else 0,)


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
