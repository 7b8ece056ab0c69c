"""Find ADNI's tables under the names that downloads have."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE = r"(?:_(?P<day>\d{1,2})(?P<month>[A-Za-z]{3})(?P<year>\d{4})|_(?P<iso>\d{4}-\d{2}-\d{2}))"
_TREE_OF_IMAGES = re.compile(r"(?:sub-|ses-|\d{3}_S_\d{4,5}$)", re.IGNORECASE)


def find_table(folder: Path, name: str) -> Path | None:
    """The newest file of a table, in the folder or in one below it; None where there is none.

    `CDR.csv`, `CDR_23Dec2025.csv`, `CDR_2025-12-23.csv`, `All_Subjects_CDR_23Dec2025.csv`, `CDR (1).csv`. Dates of
    names count, undated files are taken for the oldest; then a browser's number; then the folder nearer to the top.
    """
    pattern = re.compile(rf"(?:All_Subjects_)?{name}{_DATE}?(?: ?\((?P<copy>\d+)\))?\.csv", re.IGNORECASE)
    found = []
    for depth, file in _files(folder):
        match = pattern.fullmatch(file.name)
        if match and (day := _date_of(match)) is not None:
            found.append((day, int(match["copy"] or 0), -depth, file))
    return max(found)[3] if found else None


def _date_of(match: re.Match[str]) -> tuple[int, ...] | None:
    """Year, month and day; zeros where the name has no date, None where it is none."""
    if match["iso"]:
        return tuple(map(int, match["iso"].split("-")))
    if not match["month"]:
        return 0, 0, 0
    month = match["month"].lower()
    return (int(match["year"]), MONTHS.index(month), int(match["day"])) if month in MONTHS else None


def _files(folder: Path) -> Iterator[tuple[int, Path]]:
    """Files with the number of folders above them; folders of subjects are not entered."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not _TREE_OF_IMAGES.match(f))
        depth = len(Path(root).relative_to(folder).parts)
        yield from ((depth, Path(root) / name) for name in sorted(names))
