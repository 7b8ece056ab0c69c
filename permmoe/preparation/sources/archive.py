"""What an archive tells of a series beside its files: in the names of folders, in tables, in sidecars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Told:
    """Of one series; empty or None where the archive does not tell."""

    subject_id: str
    description: str = ""
    """Its word counts more than a header's: a person has looked at it."""
    taken: date | None = None
    scanner: Literal["", "MR", "PT"] = ""


Archive = Callable[[Path], Told | None]
"""What is told of the series that a file belongs to; None for a file that did not come from the archive."""


def no_archive(file: Path) -> None:
    """Nothing is told of any file."""
