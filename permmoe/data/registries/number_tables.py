"""The numbers that tabular modalities ask for, wherever among a registry's tables they stand."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from permmoe.data.cells import parse_number
from permmoe.data.registries.csv_tables import header_of, read_columns
from permmoe.data.registries.registry import NumberRow, NumberTable
from permmoe.data.table_files import Row, TableFile, column_key
from permmoe.errors import DataError, nearest

Place = Callable[[Row], tuple[str, date] | None]
"""Whose row it is and of which day; None where it does not tell, and for rows that are not to be used."""

Measured = Callable[[str, str, float | None], float | None]
"""A number of a column (its name, its text, its value), or None where it says that nothing was measured."""


@dataclass(frozen=True)
class Located:
    """How a table's rows are found."""

    place: Place
    is_of_scans: bool


def read_numbers(
    paths: Sequence[Path],
    columns: Iterable[str],
    place_columns: Iterable[str],
    locate: Callable[[TableFile], Located | None],
    measured: Measured,
    tracer_of: Callable[[Row], str] = lambda row: "",
) -> list[NumberTable]:
    """The tables that have some of the columns.

    `tracer_of` says of which PET tracer a row is. A column is read from the first of the tables that have it, of those
    whose rows `locate` can find. Raises DataError for a column that none of them has.
    """
    headers = {path: header_of(path) for path in paths}
    missing = list(dict.fromkeys(columns))
    tables: list[NumberTable] = []
    for path, header in headers.items():
        keys = {column_key(name) for name in header}
        own = [name for name in missing if column_key(name) in keys]
        if not own:
            continue
        table = read_columns(path, [*own, *place_columns])
        located = locate(table)
        if located is None:
            continue
        tables.append(
            NumberTable(path.name, own, _rows(table, own, located.place, measured, tracer_of), located.is_of_scans)
        )
        missing = [name for name in missing if name not in own]
    if missing:
        known = {name for header in headers.values() for name in header}
        raise DataError(
            f"no table has the column {missing[0]!r} of a tabular modality; {_hint(missing[0], known)}",
            for_log=f"no table has the column {missing[0]!r}",
        )
    return tables


def _hint(word: str, known: set[str]) -> str:
    hint = nearest(word, known)
    return hint if hint.startswith("did you mean") else "download the table that has it"


def _rows(
    table: TableFile, columns: Sequence[str], place: Place, measured: Measured, tracer_of: Callable[[Row], str]
) -> dict[str, list[NumberRow]]:
    """Rows with at least one of the numbers."""
    of: dict[str, list[NumberRow]] = defaultdict(list)
    for _, row in table.rows:
        where = place(row)
        if where is None:
            continue
        subject, day = where
        values = dict(_values(row, columns, measured))
        if values:
            of[subject].append(NumberRow(day, values, tracer_of(row)))
    return dict(of)


def _values(row: Row, columns: Sequence[str], measured: Measured) -> Iterable[tuple[str, float]]:
    for column in columns:
        text = row.get(column_key(column), "")
        number = measured(column, text, parse_number(text))
        if number is not None and math.isfinite(number):
            yield column, number
