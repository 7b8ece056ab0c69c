"""One scan as it was found: whose it is, what it shows, and the image files that hold it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

PET = ("amyloid", "tau")
MODALITIES = ("t1", "flair", *PET)


@dataclass(frozen=True)
class Frames:
    """When the frames of a PET scan were taken, in the order of the frames."""

    starts_seconds: tuple[float, ...]
    """Since the start of the scan."""
    durations_seconds: tuple[float, ...]


@dataclass(frozen=True)
class Scan:
    """One T1, FLAIR or PET scan of a session, as image files that nibabel reads."""

    subject_id: str
    """As its source calls the subject; ADNI's PTID where the source is ADNI's."""
    session: str
    """The session's label without `ses-`; where the source has none, the day as `20190301`, or else `1`."""
    modality: str
    """t1, flair, amyloid or tau."""
    files: tuple[Path, ...]
    """One image; a PET scan may be several, one a frame, in the order of time."""
    taken: date | None = None
    """None where the source does not tell."""
    tracer: str = ""
    """A PET tracer's canonical name (permmoe.tracers), such as AV45; empty for MRI."""
    frames: Frames | None = None
    """None for MRI, for a PET image of one frame, and where the source does not tell."""
    is_registered: bool = False
    """Whether it is in template space already, as in CAPS."""
    region: str = ""
    """The reference region of values that are uptake ratios already; empty where they are not known to be."""
