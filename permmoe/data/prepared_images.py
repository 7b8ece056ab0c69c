"""The list of a folder of prepared images, `images.csv`: whose each image is, its day, and whether it failed.

The folder's names of files hold labels, which lose punctuation and days; the list says both as the source did.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from permmoe.data.cells import is_missing
from permmoe.data.table_files import column_key, read_table

LIST = "images.csv"
COLUMNS = ("subject_id", "session", "modality", "tracer", "taken", "file", "verdict", "reasons")
FAILED = "failed"
"""The verdict on an image that is not to be used."""


@dataclass(frozen=True)
class ListedImage:
    """What the list says of an image."""

    subject_id: str
    session: str
    taken: date | None
    """None where the source did not tell."""
    has_failed: bool


def read_lists(files: Iterable[Path]) -> dict[Path, ListedImage]:
    """What any list among these files says, by an image's file. Other tables of that name say nothing.

    Raises DataError for a list that cannot be read.
    """
    found: dict[Path, ListedImage] = {}
    for file in files:
        if file.name != LIST or not (table := read_table(file)).has(*COLUMNS):
            continue
        read_day = table.dates("taken")
        for _, row in table.rows:
            cell = {name: row.get(column_key(name), "") for name in COLUMNS}
            taken = None if is_missing(cell["taken"]) else read_day(cell["taken"])
            image = ListedImage(cell["subject_id"], cell["session"], taken, cell["verdict"] == FAILED)
            found[file.parent / cell["file"]] = image
    return found
