"""Which scan of a session is taken where there are several of one modality.

A raw scan before one that somebody has processed or registered, since all are then prepared alike; then the one whose
rule stands first; then the finer one; then the first in time, number and name. The next is taken where one cannot be
used.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from permmoe.data.image_file import BrokenVolume
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.selection import Choice
from permmoe.preparation.progress import Progress, Step, counted, unseen
from permmoe.preparation.scan import Scan
from permmoe.preparation.sources.found import FoundScans
from permmoe.preparation.sources.person import NOBODY, Person


@dataclass(frozen=True)
class Candidate:
    """A scan that may be taken, with what decides."""

    subject_id: str
    session: str
    modality: str
    file: Path
    """What people know it by: its image, or the first file of its series."""
    make: Callable[[], Scan]
    """The scan; raises BrokenVolume, with the reason, where it cannot be used."""
    taken: date | None
    is_derived: bool = False
    """Registered, or processed otherwise."""
    rank: int = 0
    """The place of its rule (permmoe.preparation.sources.series_rules)."""
    voxel_mm3: float = math.inf
    """Infinite where the source does not tell: any finer one is preferred."""
    number: int = 0
    """Of its series or run."""
    person: Person = NOBODY
    """What its header or sidecar says of the person, to find two under one identifier."""


def day_label(taken: date | None) -> str:
    """The label of a session that is known by its day, as 20190301; 1 where it has no day."""
    return f"{taken:%Y%m%d}" if taken else "1"


def choose(candidates: Iterable[Candidate], workers: int = 1, progress: Progress = unseen) -> FoundScans:
    """One scan of each subject, session and modality that has a usable one; the choices; what could not be used.

    Scans are made by so many threads: what takes long waits for another process.
    """
    groups: dict[tuple[str, str, str], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[(candidate.subject_id, candidate.session, candidate.modality)].append(candidate)
    with ThreadPoolExecutor(workers) as pool:
        each = pool.map(_choose, [group for _, group in sorted(groups.items())])
        found = list(counted(each, Step.CHOSEN, progress, len(groups)))
    return FoundScans(
        tuple(scan for one in found for scan in one.scans),
        Quarantine(tuple(item for one in found for item in one.left_out)),
        tuple(choice for one in found for choice in one.choices),
    )


def _choose(group: Sequence[Candidate]) -> FoundScans:
    """The first of a group that can be used."""
    items: list[Quarantined] = []
    ordered = sorted(group, key=_preference)
    for place, candidate in enumerate(ordered):
        try:
            scan = replace(candidate.make(), session=candidate.session)
        except BrokenVolume as broken:
            items.append(Quarantined(candidate.subject_id, candidate.modality, str(candidate.file), broken.reason))
            continue
        others = tuple(other.file for other in ordered[place + 1 :])
        choice = Choice(scan.subject_id, scan.modality, candidate.file, others)
        return FoundScans((scan,), Quarantine(tuple(items)), (choice,) if others else ())
    return FoundScans(left_out=Quarantine(tuple(items)))


def _preference(candidate: Candidate) -> tuple[object, ...]:
    fineness, day = round(candidate.voxel_mm3, 2), candidate.taken or date.max
    return candidate.is_derived, candidate.rank, fineness, day, candidate.number, str(candidate.file)
