"""Scans among DICOM files of any names, in folders of any depth.

Series are chosen by the rules and converted only when they are taken. The subject is the patient's identifier, and the
session is the day.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from permmoe.data.image_file import BrokenVolume
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason
from permmoe.preparation.scan import PET, Scan
from permmoe.preparation.sources.archive import Archive, Told, no_archive
from permmoe.preparation.sources.choosing import Candidate, day_label
from permmoe.preparation.sources.conversion import convert
from permmoe.preparation.sources.dicom_headers import read_headers
from permmoe.preparation.sources.dicom_series import Series, patients_who_are_two, series_among
from permmoe.preparation.sources.image_facts import read_facts
from permmoe.preparation.sources.series_rules import Kind, SeriesRules
from permmoe.preparation.sources.sidecars import frames_of
from permmoe.tracers import modality_of, names_another, tracer_in


def dicom_scans(
    files: Sequence[Path], rules: SeriesRules, converted: Path, archive: Archive = no_archive, workers: int = 1
) -> tuple[list[Candidate], list[Quarantined]]:
    """The scans among files that were listed, and what is left out. None is no error.

    Images go to folders of their own under `converted`, when a candidate is made. Headers of many files are read by so
    many processes.
    """
    headers, broken = read_headers(files, workers)
    series = series_among(headers)
    doubtful = patients_who_are_two(series)
    candidates: list[Candidate] = []
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
        candidates.append(_candidate(one, subject, modality, tracer, kind.rank, told, converted))
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


def _candidate(
    one: Series, subject: str, modality: str, tracer: str, rank: int, told: Told | None, converted: Path
) -> Candidate:
    taken = (told.taken if told else None) or one.taken
    session = day_label(taken)

    def make() -> Scan:
        made = convert(one.headers, converted)
        facts = read_facts(made.image, modality)
        frames = frames_of(made.said, facts.n_frames) if modality in PET else None
        return Scan(subject, session, modality, (made.image,), taken, tracer, frames)

    return Candidate(
        subject, session, modality, one.file, make, taken, False, rank, one.voxel_mm3(), one.first.series_number
    )
