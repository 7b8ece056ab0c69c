"""ADNI's identifiers of subjects that a tree numbers by itself, as heudiconv does: `participants.tsv` tells them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from permmoe.data.image_names import PTID
from permmoe.data.table_files import column_key, read_table

Aliases = Mapping[Path, Mapping[str, str]]
"""By the folder of a data set, the PTID of a subject by its label without `sub-`."""


def read_aliases(files: Iterable[Path]) -> Aliases:
    """The PTIDs that any `participants.tsv` among these files has, in whichever column they stand.

    Raises DataError for a table that cannot be read.
    """
    return {file.parent: _aliases(file) for file in files if file.name.lower() == "participants.tsv"}


def subject_in(aliases: Aliases, subject_id: str, file: Path) -> str:
    """The PTID that the table of the nearest data set above a file has for a subject; the label where it has none."""
    for folder in file.parents:
        if folder in aliases:
            return aliases[folder].get(subject_id, subject_id)
    return subject_id


def _aliases(file: Path) -> dict[str, str]:
    table = read_table(file)
    label = column_key("participant_id")
    found: dict[str, str] = {}
    for _, row in table.rows:
        ptid = next((cell for key, cell in row.items() if key != label and re.fullmatch(PTID, cell)), None)
        if ptid and row.get(label):
            found[row[label].removeprefix("sub-")] = ptid
    return found
