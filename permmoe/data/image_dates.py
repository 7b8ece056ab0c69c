"""When images were taken, from the tables that BIDS keeps beside them.

An image's day is that of its own row in `…_scans.tsv` (`acq_time`), else that of its session in `sub-…_sessions.tsv`
(`examination_date` or `acq_time`). A session's dates serve every folder that holds an image of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import TypeVar

from permmoe.data.dates import date_reader
from permmoe.data.image_names import ImageName, image_name, scans_table, session_label, sessions_table, stem
from permmoe.data.table_files import TableFile, column_key, read_table
from permmoe.errors import DataError

KeyT = TypeVar("KeyT")

SESSION_DATES = ("examination_date", "acq_time")
FIRST_YEAR = 1925
"""BIDS shifts the dates of anonymised data to before this year; they date nothing."""


@dataclass(frozen=True)
class ImageDates:
    """Days by (subject, session), and by an image's (subject, session, name or kind of image)."""

    sessions: Mapping[tuple[str, str], date]
    scans: Mapping[tuple[str, str, str], date]

    def of(self, file: Path, name: ImageName) -> date | None:
        """The day of an image; None where no table tells."""
        visit = (name.subject_id, name.session)
        own = self.scans.get((*visit, stem(file))) or self.scans.get((*visit, name.sort))
        return own or self.sessions.get(visit)


def read_image_dates(files: Sequence[Path]) -> ImageDates:
    """The days that any tables of sessions and scans among these files tell.

    Raises DataError for a table that cannot be read, and for a column whose name is nearly the one that it should be.
    """
    return ImageDates(_session_dates(files), _scan_dates(files))


def _session_dates(files: Iterable[Path]) -> dict[tuple[str, str], date]:
    """The days of the sessions that any `sub-…_sessions.tsv` dates; their columns are read as one."""
    cells: list[tuple[tuple[str, str], str]] = []
    for file in files:
        if subject := sessions_table(file.name):
            table = read_table(file)
            column = _column(table, SESSION_DATES)
            label = _column(table, ("session_id",))
            if column and label:
                for _, row in table.rows:
                    cells.append(((subject, session_label(subject, row.get(label, ""))), row.get(column, "")))
    return _read(cells, "examination_date of the tables of sessions")


def _scan_dates(files: Iterable[Path]) -> dict[tuple[str, str, str], date]:
    """The days of the images that any `…_scans.tsv` dates; their columns are read as one."""
    cells: list[tuple[tuple[str, str, str], str]] = []
    for file in files:
        if visit := scans_table(file.name):
            table = read_table(file)
            column, name = _column(table, ("acq_time",)), _column(table, ("filename",))
            if column and name:
                for _, row in table.rows:
                    listed = PurePath(row.get(name, "")).name
                    cells.append(((*visit, stem(listed)), row.get(column, "")))
                    if image := image_name(listed):
                        cells.append(((*visit, image.sort), row.get(column, "")))
    return _read(cells, "acq_time of the tables of scans")


def _read(cells: Sequence[tuple[KeyT, str]], column: str) -> dict[KeyT, date]:
    read = date_reader((text for _, text in cells), column)
    return {key: day for key, text in cells if (day := read(text)) is not None and day.year >= FIRST_YEAR}


def _column(table: TableFile, names: Sequence[str]) -> str | None:
    """The key of the first of these columns that the table has; None where it has none and none that looks alike.

    Raises DataError for a column whose name is nearly one of these.
    """
    for name in names:
        if table.has(name):
            return column_key(name)
    for name in names:
        if similar := get_close_matches(column_key(name), [column_key(column) for column in table.header], 1, 0.8):
            raise DataError(
                f"{table.path} has a column {similar[0]!r}; did you mean {name!r}? Rename it in every table"
            )
    return None
