"""Find a registry's tables by the columns that they have, and read only the columns that are wanted.

Files are called differently from release to release, and by those who saved them; columns are not. NACC's table has
some 1,900 columns and 200,000 rows, so it is read row by row and never held as a whole.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from permmoe.data.table_files import Row, TableFile, column_key
from permmoe.errors import DataError

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

_TREE_OF_IMAGES = re.compile(r"(?:sub-|ses-)", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"^([+-]?\d+),(\d+)$")
_DATE = re.compile(r"(\d{1,2})-?([A-Za-z]{3})-?(\d{4})")
_RELEASE = re.compile(r"nacc(\d+)", re.IGNORECASE)


def tables_under(folder: Path) -> tuple[Path, ...]:
    """Every CSV file of the folder and of those below it; folders of subjects are not entered.

    Raises DataError where there is none.
    """
    if not folder.is_dir():
        raise DataError(f"no folder of tables at {folder}", for_log="the folder of tables is away")
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _TREE_OF_IMAGES.match(name))
        found += [Path(root) / name for name in sorted(names) if name.lower().endswith(".csv")]
    if not found:
        raise DataError(f"no CSV table in {folder}; name the folder of the download", for_log="there is no CSV table")
    return tuple(found)


def header_of(path: Path) -> tuple[str, ...]:
    """The names of a table's columns, as they are spelt."""
    with _reader(path) as reader:
        return tuple(name.strip() for name in next(reader, []))


def newest_with(paths: Iterable[Path], *columns: str) -> Path | None:
    """The newest of the tables that have all of these columns, by the date or the release that its name tells.

    Names without either are taken for the oldest, and of equal ones the last by name counts.
    """
    wanted = {column_key(column) for column in columns}
    found = [path for path in paths if wanted <= {column_key(name) for name in header_of(path)}]
    return max(found, key=_age_of_name, default=None)


def read_columns(path: Path, columns: Iterable[str]) -> TableFile:
    """A table's rows, each with those of the columns that the table has.

    Decimal commas of a table whose cells other signs separate, as many countries' spreadsheets save it, become points.
    """
    with _reader(path) as reader:
        header = tuple(name.strip() for name in next(reader, []))
        wanted = {column_key(column) for column in columns}
        places: dict[str, int] = {}
        for place, name in enumerate(header):
            if (key := column_key(name)) in wanted:
                places.setdefault(key, place)
        try:
            has_commas = reader.dialect.delimiter != ","
            rows = tuple(
                (reader.line_num, _row(cells, places, has_commas)) for cells in reader if any(map(str.strip, cells))
            )
        except csv.Error as error:
            raise DataError(f"{path} is no table of comma-separated cells ({error}); download it again") from None
    return TableFile(path, header, rows)


def _row(cells: Sequence[str], places: dict[str, int], has_commas: bool) -> Row:
    row = {key: cells[place].strip() if place < len(cells) else "" for key, place in places.items()}
    return {key: _DECIMAL_COMMA.sub(r"\1.\2", cell) for key, cell in row.items()} if has_commas else row


@contextmanager
def _reader(path: Path) -> Iterator[CsvReader]:
    with path.open("rb") as file:
        is_utf16 = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    with path.open(encoding="utf-16" if is_utf16 else "utf-8-sig", errors="replace", newline="") as text:
        separator = max(",;\t", key=text.readline().count)
        text.seek(0)
        yield csv.reader(text, delimiter=separator)


def _age_of_name(path: Path) -> tuple[date, int, str]:
    day = date.min
    if match := _DATE.search(path.stem):
        try:
            day = datetime.strptime("-".join(match.groups()), "%d-%b-%Y").date()
        except ValueError:
            day = date.min
    release = _RELEASE.search(path.stem)
    return day, int(release[1]) if release else 0, path.name
