"""Read ADNI's clinical tables, with the quirks that they come with, into dated assessments by roster number (RID).

Tables are found by name, with or without the date of their download (`ADNIMERGE_23Dec2025.csv`, the newest counts):
ADNIMERGE (ADNI1, GO, 2, 3), CDR (scores of all phases) and, for the diagnoses of visits that ADNIMERGE lacks, DXSUM.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from permmoe.data.cells import parse_number
from permmoe.data.images import parse_date
from permmoe.data.manifest import CDRSB_POINTS
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.target_rule import Assessment
from permmoe.errors import DataError, nearest

DAYS_A_YEAR = 365.25
MISSING_CODES = (-4.0, -1.0)
"""Written where nothing was measured; -1 in ADNI1."""
DIAGNOSES = {"1": "CN", "2": "MCI", "3": "Dementia"}
"""DXSUM's codes, in ADNIMERGE's words."""
PHASES = ((2000, "ADNI1"), (3000, "ADNIGO"), (6000, "ADNI2"), (10000, "ADNI3"))
"""First RID that no longer belongs to the phase; later ones are ADNI4's."""
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def read_assessments(folder: Path, columns: Sequence[str] = ()) -> tuple[dict[int, list[Assessment]], Quarantine]:
    """Every dated clinical visit by roster number, from ADNIMERGE and what CDR adds to it.

    `columns` are ADNIMERGE's further columns whose numbers are wanted. Raises DataError where neither table is there,
    where nothing gives diagnoses, or where a column is missing.
    """
    if not folder.is_dir():
        raise DataError(f"no folder of tables at {folder}")
    merge, cdr, summary = (find_table(folder, name) for name in ("ADNIMERGE", "CDR", "DXSUM"))
    if merge is None and cdr is None:
        raise DataError(f"neither ADNIMERGE.csv nor CDR.csv in {folder}; download them from ADNI's archive")
    if merge is None and summary is None:
        raise DataError(f"CDR.csv in {folder} gives no diagnoses; put ADNIMERGE.csv or DXSUM.csv beside it")
    if columns and merge is None:
        raise DataError(f"tabular modalities are read from ADNIMERGE.csv, which is not in {folder}")
    merged = [] if merge is None else _read_merge(merge, columns)
    scored = [] if cdr is None else _read_cdr(cdr)
    return _combine(merged, scored, {} if summary is None else _read_diagnoses(summary))


def find_table(folder: Path, name: str) -> Path | None:
    """`NAME.csv` or `NAME_23Dec2025.csv`, whichever is newest by its name; an undated one is taken for the oldest."""
    pattern = re.compile(rf"{name}(?:_(\d{{1,2}})([A-Za-z]{{3}})(\d{{4}}))?\.csv", re.IGNORECASE)
    dated: list[tuple[tuple[int, int, int], Path]] = []
    for file in folder.iterdir():
        match = pattern.fullmatch(file.name)
        if match is None:
            continue
        if match[1] is None:
            dated.append(((0, 0, 0), file))
        elif match[2].lower() in MONTHS:
            dated.append(((int(match[3]), MONTHS.index(match[2].lower()), int(match[1])), file))
    return max(dated)[1] if dated else None


def phase_of(rid: int) -> str:
    """The phase in which a subject with this roster number enrolled."""
    return next((phase for end, phase in PHASES if rid < end), "ADNI4")


@dataclass(frozen=True)
class _Row:
    """A table's row, reduced to what both tables share."""

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


def _read_merge(path: Path, columns: Sequence[str]) -> list[_Row]:
    """ADNIMERGE's visits. AGE is the age at the first visit, repeated in every row: years since then are added."""
    table = _read_csv(path, ("RID", "VISCODE", "EXAMDATE", "DX", "CDRSB", *columns))
    first = {row["RID"]: day for _, row in table if (day := parse_date(row["EXAMDATE"])) and _code(row) == "bl"}
    rows = []
    for line, row in table:
        taken = parse_date(row["EXAMDATE"])
        start = parse_date(row.get("EXAMDATE_bl", "")) or first.get(row["RID"])
        age = _measured(row.get("AGE", ""))
        rows.append(
            _Row(
                rid=_rid(path, line, row),
                where=f"{path.name}:{line}",
                taken=taken,
                cdrsb=_measured(row["CDRSB"]),
                diagnosis=_diagnosis(row["DX"]),
                code=_code(row),
                phase=row.get("COLPROT", ""),
                subject_id=row.get("PTID", ""),
                age_years=age + (taken - start).days / DAYS_A_YEAR if age and taken and start else None,
                values={column: value for column in columns if (value := _measured(row[column])) is not None},
            )
        )
    return rows


def _read_cdr(path: Path) -> list[_Row]:
    return [
        _Row(
            rid=_rid(path, line, row),
            where=f"{path.name}:{line}",
            taken=parse_date(row.get("VISDATE", "")) or parse_date(row.get("EXAMDATE", "")),
            cdrsb=_measured(row["CDRSB"]),
            diagnosis="",
            code=_code(row),
            phase=row.get("PHASE") or row.get("Phase") or row.get("COLPROT", ""),
            subject_id=row.get("PTID", ""),
        )
        for line, row in _read_csv(path, ("RID", "CDRSB"))
    ]


def _read_diagnoses(path: Path) -> dict[tuple[int, str], str]:
    """DXSUM's diagnosis by roster number and visit code."""
    return {
        (_rid(path, line, row), code): diagnosis
        for line, row in _read_csv(path, ("RID", "DIAGNOSIS"))
        if (code := _code(row)) and (diagnosis := _diagnosis(row["DIAGNOSIS"]))
    }


def _combine(
    merged: Sequence[_Row], scored: Sequence[_Row], diagnoses: Mapping[tuple[int, str], str]
) -> tuple[dict[int, list[Assessment]], Quarantine]:
    """ADNIMERGE's rows, then the CDR rows of visits that ADNIMERGE has no score for, with the visit's diagnosis."""
    diagnosis = {**diagnoses, **{(r.rid, r.code): r.diagnosis for r in merged if r.diagnosis and r.code}}
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
                diagnosis=row.diagnosis or diagnosis.get((row.rid, row.code), ""),
                code=row.code,
                phase=row.phase or phase_of(row.rid),
                age_years=age,
                subject_id=row.subject_id,
                values=row.values,
            )
        )
    return dict(assessments), Quarantine(tuple(items))


def _read_csv(path: Path, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """(Line number, row) pairs, cells stripped."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            header = list(reader.fieldnames or ())
            rows = [(reader.line_num, {k: v.strip() for k, v in row.items() if k is not None}) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error}); download it again") from None
    if absent := [name for name in required if name not in header]:
        hints = "; ".join(f"{name!r}: {nearest(name, header)}" for name in absent) if header else "it is empty"
        raise DataError(f"{path} lacks column(s) {', '.join(absent)}: {hints}")
    return rows


def _rid(path: Path, line: int, row: Mapping[str, str]) -> int:
    try:
        return int(float(row["RID"]))
    except ValueError:
        raise DataError(f"{path}, line {line}: the RID is not a number; download the table again") from None


def _measured(text: str) -> float | None:
    """A cell's number; None where nothing was measured, whichever way the table says so."""
    number = parse_number(text)
    return None if number is None or number in MISSING_CODES or number != number else number


def _diagnosis(text: str) -> str:
    """A diagnosis in ADNIMERGE's words; empty where none was made."""
    return "" if parse_number(text) in (None, *MISSING_CODES) else DIAGNOSES.get(text.removesuffix(".0"), text)


def _code(row: Mapping[str, str]) -> str:
    """The visit's code in the terms of ADNIMERGE: VISCODE2 translates the codes of later phases."""
    code = (row.get("VISCODE2") or row.get("VISCODE") or "").lower()
    return {"sc": "bl", "scmri": "bl", "m0": "bl", "m3": "m03", "m6": "m06"}.get(code, code)
