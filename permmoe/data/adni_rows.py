"""Rows of ADNI's tables in the terms that all of them share: who, which visit, which day."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from permmoe.data.adni_codes import visit_code
from permmoe.data.cells import parse_number
from permmoe.data.dates import DateReader
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.table_files import Row, TableFile, column_key
from permmoe.errors import DataError


@dataclass(frozen=True)
class AdniRow:
    """One row."""

    rid: int
    """ADNI's roster number, from RID or from the end of PTID."""
    where: str
    """File and line, as `CDR.csv:7`."""
    code: str
    """The visit's (permmoe.data.adni_codes)."""
    taken: date | None
    """The first of the table's dates that the row has."""
    cells: Row

    @property
    def file(self) -> str:
        """The table's file."""
        return self.where.rpartition(":")[0]

    @property
    def subject_id(self) -> str:
        """ADNI's PTID, as `011_S_0002`; empty where the table lacks it."""
        return self.cells.get("PTID", "").upper()


@dataclass(frozen=True)
class AdniRows:
    """A table's rows that say whose they are."""

    table: TableFile
    rows: tuple[AdniRow, ...]
    left_out: tuple[Quarantined, ...]


def adni_rows(table: TableFile, dates: Sequence[str] = (), last_day: date | None = None) -> AdniRows:
    """The rows of a table, each dated by the first of the columns `dates` that it has.

    Rows dated after `last_day`, and rows that name nobody, are left out. Raises DataError for a table without RID and
    PTID, for an RID that is no number, and for a column of dates that cannot be read.
    """
    if not table.has("RID") and not table.has("PTID"):
        table.require("RID")
    readers = [(column_key(name), table.dates(name)) for name in dates]
    rows: list[AdniRow] = []
    left_out: list[Quarantined] = []
    for line, cells in table.rows:
        where = f"{table.path.name}:{line}"
        rid = _rid(table, line, cells)
        if rid is None:
            left_out.append(Quarantined("", "", where, Reason.NO_RID))
            continue
        taken = _first_day(cells, readers)
        if taken is not None and last_day is not None and taken > last_day:
            left_out.append(Quarantined(f"RID {rid}", "", where, Reason.FUTURE_DATE))
            continue
        rows.append(AdniRow(rid, where, visit_code(cells, rid), taken, cells))
    return AdniRows(table, tuple(rows), tuple(left_out))


def _first_day(cells: Mapping[str, str], readers: Iterable[tuple[str, DateReader]]) -> date | None:
    return next((day for key, read in readers if (day := read(cells.get(key, "")))), None)


def _rid(table: TableFile, line: int, cells: Mapping[str, str]) -> int | None:
    """The roster number; None where neither RID nor PTID is filled in."""
    number = parse_number(cells.get("RID") or cells.get("PTID", "").rpartition("_")[2])
    if number is not None and not math.isfinite(number):
        raise DataError(f"{table.path}, line {line}: the RID is not a number; download the table again")
    return None if number is None else int(number)
