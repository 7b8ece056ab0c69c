"""What a search for scans found, left out and chose."""

from __future__ import annotations

from dataclasses import dataclass, field

from permmoe.data.quarantine import Quarantine
from permmoe.data.selection import Choice
from permmoe.preparation.scan import Scan


@dataclass(frozen=True)
class FoundScans:
    """At most one scan of each modality in each session of each subject."""

    scans: tuple[Scan, ...] = ()
    left_out: Quarantine = field(default_factory=Quarantine)
    """Names patients and files: it stays at the site."""
    choices: tuple[Choice, ...] = ()
    """Scans that were taken among several of one session and modality."""
    notes: tuple[str, ...] = ()
    """Sentences without subjects and files."""
