"""Which scan of a session is taken where there are several of one modality.

A raw scan before one that somebody has registered, since all are then prepared alike; then the one that the rules put
first; then the finer one; then the one without repeat, in the order of time, names and files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from permmoe.data.selection import Choice
from permmoe.preparation.scan import Scan
from permmoe.preparation.sources.found import FoundScans


@dataclass(frozen=True)
class Candidate:
    """A scan that may be taken, with what decides."""

    scan: Scan
    voxel_mm3: float
    rank: int = 0
    """The place of its rule among those of its modality (permmoe.preparation.sources.series_rules)."""
    order: tuple[int | str, ...] = ()
    """What decides last, such as the number of its series."""
    file: Path | None = None
    """What people know it by; its first image where this is None."""


def choose(candidates: Iterable[Candidate]) -> FoundScans:
    """The scans that are taken, by subject, session and modality, and the choices among several."""
    groups: dict[tuple[str, str, str], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        scan = candidate.scan
        groups[(scan.subject_id, scan.session, scan.modality)].append(candidate)
    scans: list[Scan] = []
    choices: list[Choice] = []
    for (subject, _, modality), group in sorted(groups.items()):
        taken, *others = sorted(group, key=_preference)
        scans.append(taken.scan)
        if others:
            choices.append(Choice(subject, modality, _file(taken), tuple(map(_file, others))))
    return FoundScans(tuple(scans), choices=tuple(choices))


def _preference(candidate: Candidate) -> tuple[object, ...]:
    scan = candidate.scan
    fineness = round(candidate.voxel_mm3, 2)
    return scan.is_registered, candidate.rank, fineness, scan.taken or date.max, candidate.order, str(_file(candidate))


def _file(candidate: Candidate) -> Path:
    return candidate.file or candidate.scan.files[0]
