"""Read ADNI's clinical tables, with the quirks that they come with, into dated assessments by roster number (RID).

ADNIMERGE (ADNI1, GO, 2, 3), CDR (scores of all phases) and DXSUM (diagnoses) are found by name
(permmoe.data.adni_files). What a table lacks is taken from where it also stands, in this order:

- CDR-SB: the column CDRSB, or the sum of the six box scores;
- a date: the visit's (VISDATE, EXAMDATE), or that of the same visit in ADNIMERGE, or the day of entry (USERDATE);
- a diagnosis: the visit's (DX), or DXSUM's of the same visit code, or the last one made before, with its date.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path

from permmoe.data.adni_files import find_table
from permmoe.data.cells import parse_number
from permmoe.data.diagnoses import CODES, coded_diagnosis, diagnosis_of
from permmoe.data.manifest import CDRSB_POINTS
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.table_files import Row, TableFile, column_key, read_table
from permmoe.data.target_rule import Assessment
from permmoe.errors import DataError, nearest

DAYS_A_YEAR = 365.25
MISSING_CODES = (-4.0, -1.0)
"""Written where nothing was measured; -1 in ADNI1."""
PHASES = ((2000, "ADNI1"), (3000, "ADNIGO"), (6000, "ADNI2"), (10000, "ADNI3"))
"""First RID that no longer belongs to the phase; later ones are ADNI4's."""
BOXES = ("CDMEMORY", "CDORIENT", "CDJUDGE", "CDCOMMUN", "CDHOME", "CDCARE")
"""The six scores that CDR-SB is the sum of."""
VISIT_DATES = ("VISDATE", "EXAMDATE")
ENTRY_DATE = "USERDATE"


@dataclass(frozen=True)
class ClinicalTables:
    """What the tables say."""

    assessments: Mapping[int, Sequence[Assessment]]
    """Every dated clinical visit by roster number."""
    quarantine: Quarantine
    notes: tuple[str, ...]
    """What was read from elsewhere than where it usually stands, in sentences; they name no subject."""


def read_assessments(folder: Path, columns: Sequence[str] = ()) -> ClinicalTables:
    """Every dated clinical visit, from ADNIMERGE and what CDR adds to it.

    `columns` are ADNIMERGE's further columns whose numbers are wanted. Raises DataError where neither table is there,
    where nothing gives diagnoses, where a column is missing, and where a column of dates or scores cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"no folder of tables at {folder}", for_log="the folder of tables is away")
    merge, cdr, summary = (
        find_table(folder, name) for name in ("ADNIMERGE", "CDR", r"DXSUM(?:_PDXCONV(?:_ADNIALL)?)?")
    )
    if merge is None and cdr is None:
        raise DataError(
            f"neither ADNIMERGE.csv nor CDR.csv in {folder}; download them from ADNI's archive",
            for_log="neither ADNIMERGE.csv nor CDR.csv is in the folder of tables",
        )
    if merge is None and summary is None:
        raise DataError(
            f"CDR.csv in {folder} gives no diagnoses; put ADNIMERGE.csv or DXSUM.csv beside it",
            for_log="CDR.csv gives no diagnoses, and neither ADNIMERGE.csv nor DXSUM.csv is beside it",
        )
    if columns and merge is None:
        raise DataError(
            f"tabular modalities are read from ADNIMERGE.csv, which is not in {folder}",
            for_log="tabular modalities are read from ADNIMERGE.csv, which is not there",
        )
    notes: list[str] = []
    merge_table, cdr_table = (None if path is None else read_table(path) for path in (merge, cdr))
    merged = [] if merge_table is None else _read_merge(merge_table, columns, notes)
    scored = [] if cdr_table is None else _read_cdr(cdr_table, merged, notes)
    _require_scores((*merged, *scored), [table for table in (merge_table, cdr_table) if table is not None])
    diagnosed = [] if summary is None else _read_diagnoses(read_table(summary))
    assessments, quarantine = _combine(merged, scored, diagnosed)
    return ClinicalTables(assessments, quarantine, tuple(notes))


def phase_of(rid: int) -> str:
    """The phase in which a subject with this roster number enrolled."""
    return next((phase for end, phase in PHASES if rid < end), "ADNI4")


@dataclass(frozen=True)
class _Row:
    """A table's row, reduced to what the tables share."""

    rid: int
    where: str
    taken: date | None
    cdrsb: float | None
    diagnosis: str
    code: str
    phase: str
    subject_id: str
    age_years: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)


def _read_merge(table: TableFile, columns: Sequence[str], notes: list[str]) -> list[_Row]:
    """ADNIMERGE's visits. AGE is the age at the first visit, repeated in every row: years since then are added."""
    table.require("VISCODE", "EXAMDATE", *columns)
    if not table.has("DX") and not table.has("DX_bl"):
        table.require("DX")
    if table.is_blank("DX") and not table.is_blank("DX_bl"):
        notes.append(f"{table.path.name} has no diagnosis in DX; those at the first visit are from DX_bl")
    rids, scores = _rids(table), _scores(table, notes)
    dates, starts, ages = table.dates("EXAMDATE"), table.dates("EXAMDATE_bl"), table.numbers("AGE")
    numbers = {column: table.numbers(column) for column in columns}
    first = {
        rid: day
        for rid, (_, row) in zip(rids, table.rows, strict=True)
        if (day := dates(row["EXAMDATE"])) and _code(row) == "bl"
    }
    rows = []
    for rid, score, (line, row) in zip(rids, scores, table.rows, strict=True):
        taken = dates(row["EXAMDATE"])
        start = starts(row.get("EXAMDATE_BL", "")) or first.get(rid)
        age = _measured(ages(row.get("AGE", "")))
        diagnosis = diagnosis_of(row.get("DX", ""))
        if not diagnosis and _code(row) == "bl":
            diagnosis = diagnosis_of(row.get("DX_BL", ""))
        measured = {column: _measured(read(row[column_key(column)])) for column, read in numbers.items()}
        rows.append(
            _Row(
                rid=rid,
                where=f"{table.path.name}:{line}",
                taken=taken,
                cdrsb=score,
                diagnosis=diagnosis,
                code=_code(row),
                phase=row.get("COLPROT", ""),
                subject_id=row.get("PTID", ""),
                age_years=age + (taken - start).days / DAYS_A_YEAR if age and taken and start else None,
                values={column: value for column, value in measured.items() if value is not None},
            )
        )
    return rows


def _read_cdr(table: TableFile, merged: Iterable[_Row], notes: list[str]) -> list[_Row]:
    scores, rids = _scores(table, notes), _rids(table)
    of_visit = {(row.rid, row.code): row.taken for row in merged if row.code}
    readers = [(column_key(name), table.dates(name)) for name in VISIT_DATES]
    entered = None
    if all(table.is_blank(name) for name in VISIT_DATES):
        of_entry = not table.is_blank(ENTRY_DATE)
        sources = "from ADNIMERGE" + (f", and else from {ENTRY_DATE}, the day of entry" if of_entry else "")
        notes.append(f"{table.path.name} has no date in {' or '.join(VISIT_DATES)}; dates are {sources}")
        entered = table.dates(ENTRY_DATE) if of_entry else None
    rows = []
    for rid, score, (line, row) in zip(rids, scores, table.rows, strict=True):
        own = next((day for key, read in readers if (day := read(row.get(key, "")))), None)
        taken = own or of_visit.get((rid, _code(row))) or (entered(row.get(ENTRY_DATE, "")) if entered else None)
        rows.append(
            _Row(
                rid=rid,
                where=f"{table.path.name}:{line}",
                taken=taken,
                cdrsb=score,
                diagnosis="",
                code=_code(row),
                phase=row.get("PHASE") or row.get("COLPROT", ""),
                subject_id=row.get("PTID", ""),
            )
        )
    return rows


def _read_diagnoses(table: TableFile) -> list[_Row]:
    """DXSUM's diagnoses, as rows without a score."""
    known = [name for name in CODES if table.has(name)]
    if not known:
        raise DataError(f"{table.path} lacks a diagnosis: {' or '.join(CODES)}; {nearest('DIAGNOSIS', table.header)}")
    readers = [(column_key(name), table.dates(name)) for name in VISIT_DATES]
    rows = []
    for rid, (line, row) in zip(_rids(table), table.rows, strict=True):
        found = next((dx for name in known if (dx := coded_diagnosis(row[name], CODES[name]))), "")
        if found:
            taken = next((day for key, read in readers if (day := read(row.get(key, "")))), None)
            rows.append(_Row(rid, f"{table.path.name}:{line}", taken, None, found, _code(row), "", ""))
    return rows


def _combine(
    merged: Sequence[_Row], scored: Sequence[_Row], diagnosed: Sequence[_Row]
) -> tuple[dict[int, list[Assessment]], Quarantine]:
    """ADNIMERGE's rows, then the CDR rows of visits that ADNIMERGE has no score for, with the visit's diagnosis."""
    by_code = {(r.rid, r.code): r.diagnosis for r in (*diagnosed, *merged) if r.diagnosis and r.code}
    scored_visits = {(r.rid, r.code) for r in merged if r.cdrsb is not None and r.code}
    scored_days = {(r.rid, r.taken) for r in merged if r.cdrsb is not None}
    births = {r.rid: r.taken - timedelta(days=r.age_years * DAYS_A_YEAR) for r in merged if r.taken and r.age_years}
    added = [r for r in scored if (r.rid, r.code) not in scored_visits and (r.rid, r.taken) not in scored_days]
    assessments: dict[int, list[Assessment]] = defaultdict(list)
    items: list[Quarantined] = []
    for row in [*merged, *added]:
        if row.taken is None:
            if row.cdrsb is not None:
                items.append(Quarantined(f"RID {row.rid}", "", row.where, Reason.UNDATED_VISIT))
            continue
        if row.cdrsb is not None and not CDRSB_POINTS[0] <= row.cdrsb <= CDRSB_POINTS[1]:
            items.append(Quarantined(f"RID {row.rid}", "", row.where, Reason.IMPOSSIBLE_SCORE))
            continue
        age = row.age_years
        if age is None and row.rid in births:
            age = (row.taken - births[row.rid]).days / DAYS_A_YEAR
        assessments[row.rid].append(
            Assessment(
                taken=row.taken,
                cdrsb=row.cdrsb,
                diagnosis=row.diagnosis or by_code.get((row.rid, row.code), ""),
                code=row.code,
                phase=row.phase or phase_of(row.rid),
                age_years=age,
                subject_id=row.subject_id,
                values=row.values,
            )
        )
    return _with_last_known(assessments, diagnosed), Quarantine(tuple(items))


def _with_last_known(
    assessments: Mapping[int, Sequence[Assessment]], diagnosed: Iterable[_Row]
) -> dict[int, list[Assessment]]:
    """Visits without a diagnosis are given the last one that was made before, and the day of it."""
    made: dict[int, list[tuple[date, str]]] = defaultdict(list)
    for row in diagnosed:
        if row.taken is not None:
            made[row.rid].append((row.taken, row.diagnosis))
    for rid, visits in assessments.items():
        made[rid] += [(visit.taken, visit.diagnosis) for visit in visits if visit.diagnosis]
    found: dict[int, list[Assessment]] = {}
    for rid, visits in assessments.items():
        found[rid] = []
        for visit in visits:
            before = [event for event in made[rid] if event[0] <= visit.taken]
            if not visit.diagnosis and before:
                day, diagnosis = max(before)
                visit = replace(visit, diagnosis=diagnosis, diagnosed=day)
            found[rid].append(visit)
    return found


def _rids(table: TableFile) -> list[int]:
    """Roster numbers, from RID or from the end of PTID."""
    if not table.has("RID") and not table.has("PTID"):
        table.require("RID")
    found = []
    for line, row in table.rows:
        text = row.get("RID") or row.get("PTID", "").rpartition("_")[2]
        number = parse_number(text)
        if number is None or not math.isfinite(number):
            raise DataError(f"{table.path}, line {line}: the RID is not a number; download the table again")
        found.append(int(number))
    return found


def _scores(table: TableFile, notes: list[str]) -> list[float | None]:
    """CDR-SB of every row, points, from its column or from the six boxes; None where nothing was measured."""
    if not table.has(*BOXES):
        table.require("CDRSB")
    total, boxes = table.numbers("CDRSB"), [(box, table.numbers(box)) for box in BOXES]
    found = []
    for _, row in table.rows:
        score = _measured(total(row.get("CDRSB", "")))
        if score is None:
            parts = [_measured(read(row.get(box, ""))) for box, read in boxes]
            known = [part for part in parts if part is not None]
            score = sum(known) if len(known) == len(BOXES) else None
        found.append(score)
    if table.is_blank("CDRSB") and any(score is not None for score in found):
        notes.append(f"{table.path.name} has no CDRSB; it is the sum of the six box scores")
    return found


def _require_scores(rows: Sequence[_Row], tables: Sequence[TableFile]) -> None:
    if not rows or any(row.cdrsb is not None for row in rows):
        return
    names = " and ".join(table.path.name for table in tables)
    is_global = any(not table.is_blank("CDGLOBAL") for table in tables)
    also = "; the global score (CDGLOBAL) does not tell it" if is_global else ""
    raise DataError(
        f"no CDR-SB in {names}: neither in CDRSB nor as six box scores ({', '.join(BOXES)}){also}; "
        "download the table with its box scores"
    )


def _measured(number: float | None) -> float | None:
    """A cell's number; None where nothing was measured, whichever way the table says so."""
    return None if number is None or number in MISSING_CODES or number != number else number


def _code(row: Row) -> str:
    """The visit's code in the terms of ADNIMERGE: VISCODE2 translates the codes of later phases."""
    code = (row.get("VISCODE2") or row.get("VISCODE") or "").lower()
    return {"sc": "bl", "scmri": "bl", "m0": "bl", "m3": "m03", "m6": "m06"}.get(code, code)
