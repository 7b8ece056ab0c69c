"""CDR-SB of a table's rows: the column CDRSB, or the sum of the six box scores."""

from __future__ import annotations

from collections.abc import Sequence

from permmoe.data.adni_rows import AdniRows
from permmoe.data.table_files import TableFile
from permmoe.errors import DataError

BOXES = ("CDMEMORY", "CDORIENT", "CDJUDGE", "CDCOMMUN", "CDHOME", "CDCARE")
"""The six scores that CDR-SB is the sum of."""
MISSING_CODES = (-4.0, -1.0)
"""Written where a score was not given: no score can be negative."""


def scores(read: AdniRows, notes: list[str]) -> list[float | None]:
    """CDR-SB of every row, points; None where nothing was rated. A sum of boxes is noted."""
    table = read.table
    total, boxes = table.numbers("CDRSB"), [(box, table.numbers(box)) for box in BOXES]
    found = []
    for row in read.rows:
        score = _rated(total(row.cells.get("CDRSB", "")))
        if score is None:
            parts = [_rated(of(row.cells.get(box, ""))) for box, of in boxes]
            known = [part for part in parts if part is not None]
            score = sum(known) if len(known) == len(BOXES) else None
        found.append(score)
    if table.is_blank("CDRSB") and any(score is not None for score in found):
        notes.append(f"{table.path.name} has no CDRSB; it is the sum of the six box scores")
    return found


def require_columns(table: TableFile) -> None:
    """Raise DataError for a table that has neither CDRSB nor the six boxes."""
    if not table.has(*BOXES):
        table.require("CDRSB")


def require_scores(found: Sequence[float | None], tables: Sequence[TableFile]) -> None:
    """Raise DataError where there are visits and none of them has a CDR-SB."""
    if not found or any(score is not None for score in found):
        return
    names = " and ".join(table.path.name for table in tables)
    is_global = any(not table.is_blank("CDGLOBAL") for table in tables)
    also = "; the global score (CDGLOBAL) does not tell it" if is_global else ""
    raise DataError(
        f"no CDR-SB in {names}: neither in CDRSB nor as six box scores ({', '.join(BOXES)}){also}; "
        "download the table with its box scores"
    )


def _rated(number: float | None) -> float | None:
    return None if number is None or number in MISSING_CODES or number != number else number
