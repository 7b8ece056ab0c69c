"""Scans among DICOM files of any names, in folders of any depth.

Series are chosen by the rules and converted only when they are taken. The subject is the patient's identifier, and the
session is the day. Frames of PET that are series of their own are joined (permmoe.preparation.sources.pet_frames).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from permmoe.data.image_file import BrokenVolume
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason
from permmoe.preparation.progress import Progress, unseen
from permmoe.preparation.scan import PET, Scan
from permmoe.preparation.sources.archive import Archive, Told, no_archive
from permmoe.preparation.sources.choosing import Candidate, day_label
from permmoe.preparation.sources.conversion import convert
from permmoe.preparation.sources.dicom_headers import read_headers
from permmoe.preparation.sources.dicom_series import Series, patients_who_are_two, series_among
from permmoe.preparation.sources.image_facts import read_facts
from permmoe.preparation.sources.person import NOBODY, Person
from permmoe.preparation.sources.pet_frames import Parts, alike, frames_of_parts, scans_among
from permmoe.preparation.sources.series_rules import Kind, SeriesRules
from permmoe.preparation.sources.sidecars import frames_of
from permmoe.tracers import modality_of, names_another, tracer_in


def dicom_scans(
    files: Sequence[Path],
    rules: SeriesRules,
    converted: Path,
    archive: Archive = no_archive,
    workers: int = 1,
    progress: Progress = unseen,
) -> tuple[list[Candidate], list[Quarantined]]:
    """The scans among files that were listed, and what is left out. None is no error.

    Images go to folders of their own under `converted`, when a candidate is made. Headers of many files are read by so
    many processes.
    """
    headers, broken = read_headers(files, workers, progress)
    series = series_among(headers)
    doubtful = patients_who_are_two(series)
    chosen: list[_Chosen] = []
    items = [Quarantined(_subject_told(archive(file)), "", str(file), reason) for file, reason in broken.items()]
    for one in series:
        told = archive(one.file)
        subject = _subject_told(told) or subject_of(one.first.patient)
        modality = ""
        try:
            kind = _kind(one, told, rules)
            tracer = _tracer(one, kind, told)
            modality = modality_of(tracer) or kind.name
            if not subject:
                raise BrokenVolume(Reason.NO_PATIENT)
            if one.first.patient in doubtful and not told:
                raise BrokenVolume(Reason.TWO_PATIENTS)
            if fault := one.fault():
                raise BrokenVolume(fault)
        except BrokenVolume as left_out:
            items.append(Quarantined(subject, modality, str(one.file), left_out.reason))
            continue
        # An archive's headers may share one identifier; whose its images are is said by the archive.
        person = NOBODY if told else Person.of(one.first.birth, one.first.sex)
        chosen.append(_Chosen(one, subject, modality, tracer, kind.rank, told.taken if told else None, person))
    candidates, apart = _candidates(chosen, converted)
    return candidates, items + apart


@dataclass(frozen=True)
class _Chosen:
    """A series that is taken for something."""

    series: Series
    subject: str
    modality: str
    tracer: str
    rank: int
    told_day: date | None
    """The archive's word for its day."""
    person: Person

    @property
    def group(self) -> Hashable:
        """What series that may be one scan have in common."""
        frame = alike(self.series) or str(self.series.file)
        return self.subject, self.modality, self.tracer, self.rank, self.told_day, frame


def _candidates(chosen: Sequence[_Chosen], converted: Path) -> tuple[list[Candidate], list[Quarantined]]:
    """A candidate for each scan that the series make, and the series that make none."""
    groups: dict[Hashable, list[_Chosen]] = defaultdict(list)
    for one in chosen:
        groups[one.group].append(one)
    candidates: list[Candidate] = []
    items: list[Quarantined] = []
    for group in groups.values():
        try:
            scans = scans_among([one.series for one in group])
        except BrokenVolume as left_out:
            items += [Quarantined(c.subject, c.modality, str(c.series.file), left_out.reason) for c in group]
            continue
        candidates += [_candidate(parts, group[0], converted) for parts in scans]
    return candidates, items


def subject_of(patient: str) -> str:
    """A patient's identifier; ADNI's as its tables have it, whatever joins its parts."""
    ptid = re.fullmatch(r"(?:ADNI)?(\d{3})[ _-]?S[ _-]?(\d{4,5})", patient, re.IGNORECASE)
    return f"{ptid[1]}_S_{ptid[2]}" if ptid else patient


def _subject_told(told: Told | None) -> str:
    return told.subject_id if told else ""


def _kind(one: Series, told: Told | None, rules: SeriesRules) -> Kind:
    if not one.first.n_images:
        raise BrokenVolume(Reason.OTHER_SERIES)  # A report, a plan, a directory.
    kind = rules.kind_of(one.facts(told.description if told else ""))
    if isinstance(kind, Reason):
        raise BrokenVolume(kind)
    return kind


def _tracer(one: Series, kind: Kind, told: Told | None) -> str:
    """A PET scan's tracer: as the rule states it, the archive calls it, or header and description agree on it."""
    if kind.name != "pet" or kind.tracer:
        return kind.tracer
    if told and (name := tracer_in(told.description)):
        return name
    described, named = tracer_in(one.first.description), one.tracer()
    if described and names_another(one.first.radiopharmaceutical, described):
        raise BrokenVolume(Reason.TWO_TRACERS)
    if not (tracer := described or named):
        raise BrokenVolume(Reason.OTHER_TRACER)
    return tracer


def _candidate(parts: Parts, like: _Chosen, converted: Path) -> Candidate:
    first, modality = parts[0], like.modality
    taken = like.told_day or first.taken
    session = day_label(taken)

    def make() -> Scan:
        made = [convert(part.headers, converted) for part in parts]
        counts = [read_facts(one.image, modality).n_frames for one in made]
        if len(parts) > 1 and set(counts) != {1}:
            raise BrokenVolume(Reason.OTHER_FRAME_TIMES)
        frames = None
        if modality in PET:
            frames = frames_of(made[0].said, counts[0]) if len(parts) == 1 else frames_of_parts(parts)
        return Scan(like.subject, session, modality, tuple(one.image for one in made), taken, like.tracer, frames)

    number = first.first.series_number
    return Candidate(
        like.subject,
        session,
        modality,
        first.file,
        make,
        taken,
        False,
        like.rank,
        first.voxel_mm3(),
        number,
        like.person,
    )
