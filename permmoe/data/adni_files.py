"""Find ADNI's tables under the names that downloads have."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE = r"(?:_(?P<day>\d{1,2})(?P<month>[A-Za-z]{3})(?P<year>\d{4})|_(?P<iso>\d{4}-\d{2}-\d{2}))"
_VERSION = r"(?:_(?P<version>\d{2}_\d{2}_\d{2}))?"
"""Laboratories put the day of a table's version behind its name: `UCSFFSX51_11_08_19_20Nov2023.csv`."""
_TREE_OF_IMAGES = re.compile(r"(?:sub-|ses-|\d{3}_S_\d{4,5}$)", re.IGNORECASE)


def find_table(folder: Path, name: str) -> Path | None:
    """The newest file of a table, in the folder or in one below it; None where there is none.

    `CDR.csv`, `CDR_23Dec2025.csv`, `CDR_2025-12-23.csv`, `All_Subjects_CDR_23Dec2025.csv`, `CDR (1).csv`,
    `ADNI_UCD_WMH_09_01_20.csv`. `name` is a regular expression. Dates of names count, undated files are taken for the
    oldest; then the version's date; then a browser's number; then the folder nearer to the top.
    """
    found = [
        (day, _version(match), int(match["copy"] or 0), -depth, file)
        for match, depth, file in _named(folder, name, "csv")
        if (day := _date_of(match)) is not None
    ]
    return max(found)[-1] if found else None


def find_spreadsheet(folder: Path, name: str) -> Path | None:
    """A spreadsheet that goes by a table's name: it has to be saved as CSV before it is read."""
    return next((file for _, _, file in _named(folder, name, "xlsx?")), None)


def _named(folder: Path, name: str, suffix: str) -> Iterator[tuple[re.Match[str], int, Path]]:
    """Files that go by a table's name, with the number of folders above them."""
    pattern = re.compile(
        rf"(?:All_Subjects_)?(?:ADNI_)?(?:{name}){_VERSION}{_DATE}?(?: ?\((?P<copy>\d+)\))?\.{suffix}", re.IGNORECASE
    )
    for depth, file in _files(folder):
        if match := pattern.fullmatch(file.name):
            yield match, depth, file


def _version(match: re.Match[str]) -> tuple[int, ...]:
    """Year, month and day; zeros where the name has none."""
    month, day, year = map(int, (match["version"] or "00_00_00").split("_"))
    return year, month, day


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
