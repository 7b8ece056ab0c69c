"""Read ADNI's clinical tables, with the quirks that they come with, into dated assessments by roster number (RID).

CDR (scores of all phases), DXSUM (diagnoses), REGISTRY (days of visits), PTDEMOG (birth), and ADNIMERGE (ADNI1, GO, 2,
3), which is used where it is there and not needed where DXSUM is. What a table lacks is taken from where it also
stands, in this order:

- CDR-SB: the column CDRSB, or the sum of the six box scores;
- a date: the visit's (VISDATE, EXAMDATE), or that of the same visit in ADNIMERGE, or in REGISTRY (EXAMDATE, VISDATE),
  or the day of entry (USERDATE);
- a diagnosis: the visit's (DX), or DXSUM's of the same visit code, or the last one made before, with its date;
- an age: ADNIMERGE's, or the time since birth (PTDEMOG).

Two rows are of one visit where their code is the same (permmoe.data.adni_codes).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from permmoe.data.adni_codes import names_one_visit, phase_of
from permmoe.data.adni_diagnoses import Diagnosed, read_diagnoses, with_last_diagnosis
from permmoe.data.adni_files import find_spreadsheet, find_table
from permmoe.data.adni_people import birth_dates
from permmoe.data.adni_rows import AdniRow, AdniRows, adni_rows
from permmoe.data.adni_scores import require_columns, require_scores, scores
from permmoe.data.adni_sources import AGE
from permmoe.data.diagnoses import diagnosis_of
from permmoe.data.manifest import CDRSB_POINTS
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.table_files import read_table
from permmoe.data.target_rule import Assessment, NumberSource
from permmoe.errors import DataError

DAYS_A_YEAR = 365.25
VISIT_DATES = ("VISDATE", "EXAMDATE")
REGISTRY_DATES = ("EXAMDATE", "VISDATE")
ENTRY_DATE = "USERDATE"
DIAGNOSES = r"DXSUM(?:_PDXCONV(?:_ADNIALL)?)?"
NOT_CONDUCTED = ("0", "NO")
"""REGISTRY's RGCONDCT of visits that did not take place."""


@dataclass(frozen=True)
class ClinicalTables:
    """What the tables say."""

    assessments: Mapping[int, Sequence[Assessment]]
    """Every dated clinical visit by roster number."""
    quarantine: Quarantine
    notes: tuple[str, ...]
    """What was read from elsewhere than where it usually stands, in sentences; they name no subject."""
    rows: tuple[AdniRow, ...] = ()
    """Every row that was read, for whose it is."""


@dataclass(frozen=True)
class _Scored:
    """A clinical visit of one table."""

    row: AdniRow
    taken: date | None
    cdrsb: float | None
    diagnosis: str = ""
    phase: str = ""
    age_years: float | None = None

    @property
    def visit(self) -> tuple[int, str]:
        return self.row.rid, self.row.code


def read_assessments(folder: Path, last_day: date | None = None, *, need_cdrsb: bool = True) -> ClinicalTables:
    """Every dated clinical visit, from ADNIMERGE and what CDR adds to it.

    Rows dated after `last_day` are left out. Without `need_cdrsb` no visit has to have one: the outcome is of another
    score. Raises DataError where neither table is there, where nothing gives
    diagnoses, where a column is missing, and where a column of dates or scores cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"no folder of tables at {folder}", for_log="the folder of tables is away")
    notes: list[str] = []
    merge, cdr, summary, registry, people = (
        _found(folder, name, dates, last_day, notes)
        for name, dates in (
            ("ADNIMERGE", ("EXAMDATE",)), ("CDR", VISIT_DATES), (DIAGNOSES, VISIT_DATES), ("REGISTRY", REGISTRY_DATES),
            ("PTDEMOG", ()),
        )
    )  # fmt: skip
    _require_tables(folder, merge, cdr, summary)
    days = {} if registry is None else _visit_days(registry)
    both = [table for table in (merge, cdr) if table is not None]
    if need_cdrsb:
        for table in both:
            require_columns(table.table)
    merged = [] if merge is None else _read_merge(merge, notes)
    scored = [] if cdr is None else _read_cdr(cdr, merged, days, registry, notes)
    if need_cdrsb:
        require_scores([row.cdrsb for row in (*merged, *scored)], [table.table for table in both])
    diagnosed = [] if summary is None else read_diagnoses(summary, days)
    assessments, items = _combine(merged, scored, diagnosed, _births(merged, people))
    read = [table for table in (merge, cdr, summary, registry, people) if table is not None]
    left_out = [item for table in read for item in table.left_out]
    rows = tuple(row for table in read for row in table.rows)
    return ClinicalTables(assessments, Quarantine((*left_out, *items)), tuple(notes), rows)


def _found(folder: Path, name: str, dates: Sequence[str], last_day: date | None, notes: list[str]) -> AdniRows | None:
    path = find_table(folder, name)
    if path is not None:
        return adni_rows(read_table(path), dates, last_day)
    if spreadsheet := find_spreadsheet(folder, name):
        notes.append(f"{spreadsheet.name} is a spreadsheet and was not read; save it as comma-separated text (CSV)")
    return None


def _require_tables(folder: Path, merge: AdniRows | None, cdr: AdniRows | None, summary: AdniRows | None) -> None:
    for name, absent in (("CDR", merge is None and cdr is None), (DIAGNOSES, merge is None and summary is None)):
        if absent and (spreadsheet := find_spreadsheet(folder, name)):
            raise DataError(
                f"{spreadsheet} is a spreadsheet; save it as comma-separated text (CSV)",
                for_log="a table that is needed is a spreadsheet and no comma-separated text",
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


def _read_merge(read: AdniRows, notes: list[str]) -> list[_Scored]:
    """ADNIMERGE's visits. AGE is the age at the first visit, repeated in every row: years since then are added."""
    table = read.table
    table.require("VISCODE", "EXAMDATE")
    if not table.has("DX") and not table.has("DX_bl"):
        table.require("DX")
    if table.is_blank("DX") and not table.is_blank("DX_bl"):
        notes.append(f"{table.path.name} has no diagnosis in DX; those at the first visit are from DX_bl")
    starts, ages = table.dates("EXAMDATE_bl"), table.numbers("AGE")
    first = {row.rid: row.taken for row in read.rows if row.taken and row.code == "bl"}
    visits = []
    for row, score in zip(read.rows, scores(read, notes), strict=True):
        start = starts(row.cells.get("EXAMDATE_BL", "")) or first.get(row.rid)
        diagnosis = diagnosis_of(row.cells.get("DX", ""))
        if not diagnosis and row.code == "bl":
            diagnosis = diagnosis_of(row.cells.get("DX_BL", ""))
        visits.append(
            _Scored(
                row=row,
                taken=row.taken,
                cdrsb=score,
                diagnosis=diagnosis,
                phase=row.cells.get("COLPROT", ""),
                age_years=_age_at(row.taken, ages(row.cells.get("AGE", "")), start),
            )
        )
    return visits


def _age_at(taken: date | None, age: float | None, start: date | None) -> float | None:
    """The age at a visit, years, where `age` is that at `start`; None where something is missing."""
    if taken is None or start is None or age is None or not age > 0:
        return None
    return age + (taken - start).days / DAYS_A_YEAR


def _visit_days(registry: AdniRows) -> dict[tuple[int, str], date]:
    """The days of visits that took place, by roster number and code."""
    return {
        (row.rid, row.code): row.taken
        for row in registry.rows
        if row.taken and names_one_visit(row.code) and row.cells.get("RGCONDCT", "").upper() not in NOT_CONDUCTED
    }


def _read_cdr(
    read: AdniRows,
    merged: Iterable[_Scored],
    days: Mapping[tuple[int, str], date],
    registry: AdniRows | None,
    notes: list[str],
) -> list[_Scored]:
    """CDR's visits. One whose date is not in the table is dated from elsewhere, which is noted."""
    of_visit = {visit.visit: visit.taken for visit in merged if visit.taken and names_one_visit(visit.row.code)}
    entered = read.table.dates(ENTRY_DATE) if any(row.taken is None for row in read.rows) else None
    sources: Counter[str] = Counter()
    visits = []
    for row, score in zip(read.rows, scores(read, notes), strict=True):
        taken, source = row.taken, ""
        if taken is None and (taken := of_visit.get((row.rid, row.code))):
            source = "ADNIMERGE"
        elif taken is None and registry is not None and (taken := days.get((row.rid, row.code))):
            source = registry.table.path.name
        elif taken is None and entered is not None and (taken := entered(row.cells.get(ENTRY_DATE, ""))):
            source = f"{ENTRY_DATE}, the day of entry"
        sources.update([source] if source else [])
        phase = row.cells.get("PHASE") or row.cells.get("COLPROT", "")
        visits.append(_Scored(row, taken, score, phase=phase))
    if sources:
        counts = ", ".join(f"{n} by {source}" for source, n in sources.items())
        notes.append(f"{read.table.path.name}: visits without {' and '.join(VISIT_DATES)} are dated, {counts}")
    return visits


@dataclass(frozen=True)
class _Birth:
    """A day of birth, and what gave it."""

    day: date
    source: NumberSource


def _births(merged: Sequence[_Scored], people: AdniRows | None) -> dict[int, _Birth]:
    """Days of birth by roster number: from the ages of ADNIMERGE, else from PTDEMOG."""
    born: dict[int, _Birth] = {}
    if people is not None:
        source = NumberSource(people.table.path.name, "PTDOB")
        born = {rid: _Birth(day, source) for rid, day in birth_dates(people.rows).items()}
    for visit in merged:
        if visit.taken and visit.age_years:
            day = visit.taken - timedelta(days=visit.age_years * DAYS_A_YEAR)
            born[visit.row.rid] = _Birth(day, NumberSource(visit.row.file, "AGE"))
    return born


def _combine(
    merged: Sequence[_Scored],
    scored: Sequence[_Scored],
    diagnosed: Sequence[Diagnosed],
    births: Mapping[int, _Birth],
) -> tuple[dict[int, list[Assessment]], list[Quarantined]]:
    """ADNIMERGE's rows, then the CDR rows of visits that ADNIMERGE has no score for, with the visit's diagnosis."""
    by_code = {(d.rid, d.code): d.diagnosis for d in diagnosed}
    by_code |= {visit.visit: visit.diagnosis for visit in merged if visit.diagnosis}
    by_code = {visit: diagnosis for visit, diagnosis in by_code.items() if names_one_visit(visit[1])}
    with_score = [visit for visit in merged if visit.cdrsb is not None]
    scored_visits = {visit.visit for visit in with_score if names_one_visit(visit.row.code)}
    scored_days = {(visit.row.rid, visit.taken) for visit in with_score}
    added = [v for v in scored if v.visit not in scored_visits and (v.row.rid, v.taken) not in scored_days]
    assessments: dict[int, list[Assessment]] = defaultdict(list)
    items: list[Quarantined] = []
    for visit in [*merged, *added]:
        row = visit.row
        if visit.taken is None:
            if visit.cdrsb is not None:
                items.append(Quarantined(f"RID {row.rid}", "", row.where, Reason.UNDATED_VISIT))
            continue
        if visit.cdrsb is not None and not CDRSB_POINTS[0] <= visit.cdrsb <= CDRSB_POINTS[1]:
            items.append(Quarantined(f"RID {row.rid}", "", row.where, Reason.IMPOSSIBLE_SCORE))
            continue
        age, birth = visit.age_years, births.get(row.rid)
        if age is None and birth is not None:
            age = (visit.taken - birth.day).days / DAYS_A_YEAR
        assessments[row.rid].append(
            Assessment(
                taken=visit.taken,
                cdrsb=visit.cdrsb,
                diagnosis=visit.diagnosis or by_code.get(visit.visit, ""),
                code=row.code,
                phase=visit.phase or phase_of(row.rid),
                age_years=age,
                subject_id=row.subject_id,
                given_by={AGE: birth.source} if birth is not None else {},
            )
        )
    return with_last_diagnosis(assessments, diagnosed), items
