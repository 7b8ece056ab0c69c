"""What could not be used, item by item, with its reason: a broken file never stops a run and never vanishes."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from permmoe.data.reasons import Reason
from permmoe.runtime.files import write_file


@dataclass(frozen=True)
class Quarantined:
    """One thing that was left out."""

    subject_id: str
    modality: str
    """Empty where the whole visit was left out."""
    file: str
    """The image, or the table and its row as `manifest.csv:7`; empty where no single file is to blame."""
    reason: Reason


@dataclass(frozen=True)
class Quarantine:
    """Everything that was left out, in the order in which it was met. Quarantines add."""

    items: tuple[Quarantined, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Quarantined]:
        return iter(self.items)

    def __add__(self, other: Quarantine) -> Quarantine:
        return Quarantine(self.items + other.items)

    def counts(self) -> dict[Reason, int]:
        """How often each reason occurs, most frequent first; names no subject and no file, so it may be logged."""
        return dict(sorted(Counter(item.reason for item in self.items).items(), key=lambda pair: (-pair[1], pair[0])))

    def write(self, path: Path) -> None:
        """Write the itemised report as CSV. It names patients and files: it stays at the site."""
        rows = [(item.subject_id, item.modality, item.file, item.reason) for item in self.items]
        write_csv_atomically(path, ("subject_id", "modality", "file", "reason"), rows)


def write_csv_atomically(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file that is either complete or absent, readable by its owner only: it names patients."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    write_file(path, text.getvalue(), is_durable=False)
