"""A table's file as people save it: its separator, its encoding and the spelling of its header are found out.

Cells are separated by commas, semicolons or tabs; text is UTF-8 or UTF-16, with or without a mark, or Windows-1252.
Names of columns are compared without regard to case and spaces. Empty rows are no rows.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from permmoe.data.cells import NumberReader, is_missing, number_reader
from permmoe.data.dates import DateReader, date_reader
from permmoe.errors import DataError, nearest

Row = dict[str, str]
"""A row's cells, stripped, by `column_key`."""


def column_key(name: str) -> str:
    """A column's name without regard to case and spaces: `Exam Date` is `EXAMDATE`."""
    return re.sub(r"\s+", "", name.strip().strip('"')).upper()


@dataclass(frozen=True)
class TableFile:
    """A table that was read."""

    path: Path
    header: tuple[str, ...]
    """As it is spelt."""
    rows: tuple[tuple[int, Row], ...]
    """Each with the number of its line."""

    def has(self, *names: str) -> bool:
        """Whether it has all of these columns."""
        return all(column_key(name) in map(column_key, self.header) for name in names)

    def cells(self, name: str) -> list[str]:
        """A column's cells; empty ones where there is no such column."""
        return [row.get(column_key(name), "") for _, row in self.rows]

    def is_blank(self, name: str) -> bool:
        """Whether a column is not there or holds nothing."""
        return all(map(is_missing, self.cells(name)))

    def require(self, *names: str) -> None:
        """Raise DataError, with the nearest name, for a column that is not there."""
        if absent := [name for name in names if not self.has(name)]:
            hints = (
                "; ".join(f"{name!r}: {nearest(name, self.header)}" for name in absent)
                if self.header
                else "it is empty"
            )
            raise DataError(f"{self.path} lacks column(s) {', '.join(absent)}: {hints}")

    def dates(self, name: str) -> DateReader:
        """What reads a column's dates. Raises DataError for a column that cannot be read."""
        return date_reader(self.cells(name), f"{name} of {self.path}")

    def numbers(self, name: str) -> NumberReader:
        """What reads a column's numbers. Raises DataError for a column that cannot be read."""
        return number_reader(self.cells(name), f"{name} of {self.path}")


def read_table(path: Path) -> TableFile:
    """Read a table. Raises DataError for a file that is none, which it names: a web page, a spreadsheet."""
    text = _text(path).lstrip()
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text.partition("\n")[0]))
        header = tuple(name.strip() for name in next((row for row in reader if any(map(str.strip, row))), []))
        keys = [column_key(name) for name in header]
        rows = tuple((reader.line_num, _row(keys, cells)) for cells in reader if any(map(str.strip, cells)))
    except csv.Error as error:
        raise DataError(f"{path} is no table of comma-separated cells ({error}); download it again") from None
    return TableFile(path, header, rows)


def _row(keys: Sequence[str], cells: Iterable[str]) -> Row:
    """Of two columns of one name the first counts."""
    row: Row = {}
    for key, cell in zip(keys, cells, strict=False):
        row.setdefault(key, cell.strip())
    return row


def _text(path: Path) -> str:
    content = path.read_bytes()
    start = content[:512].lstrip().lower()
    if b"<html" in start or start.startswith(b"<!doctype"):
        raise DataError(
            f"{path} is a web page, most likely the archive's login page saved under the table's name; log in and "
            "download the table again"
        )
    if content.startswith(b"PK\x03\x04") or content.startswith(b"\xd0\xcf\x11\xe0"):
        raise DataError(f"{path} is a spreadsheet and no text; save it as comma-separated text (CSV)")
    if b"\x00" in content and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        # Latin letters in UTF-16 have zeros as every second byte; the file does not say which half.
        return content.decode("utf-16-be" if content[:1] == b"\x00" else "utf-16-le", errors="replace")
    encodings = ("utf-16",) if content.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8-sig", "cp1252")
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DataError(f"{path} is no text in UTF-8, UTF-16 or Windows-1252; save it as comma-separated text in UTF-8")


def _separator(header: str) -> str:
    """Whichever of the three occurs most in the header."""
    return max(",;\t", key=header.count)
