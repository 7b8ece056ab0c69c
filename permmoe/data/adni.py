"""ADNI as people hold it: its clinical tables and Clinica's image folders become the one visit table.

The target, for each subject (roster number, RID) at most once:

1. The index visit is the earliest one with an accepted diagnosis, a CDR-SB and an image within ±`image_window_days`.
   It is chosen by date and without a look at what came later, nor at whether anything did.
2. Of each modality the image nearest to the index visit is taken.
3. y = CDR-SB at the visit nearest to `horizon_months` after it, ±`window_months`, − CDR-SB at the index visit;
   unknown where there is none.

Tables are found by name, with or without the date of their download (`ADNIMERGE_23Dec2025.csv`, the newest counts):
ADNIMERGE (ADNI1, GO, 2, 3), CDR (scores of all phases) and, for the diagnoses of visits that ADNIMERGE lacks, DXSUM.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from pydantic import Field

from permmoe.config import Configuration
from permmoe.data.cells import parse_number
from permmoe.data.images import FoundImage, find_images, parse_date
from permmoe.data.kinds import kind_of
from permmoe.data.manifest import CDRSB_POINTS
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import DataError, nearest
from permmoe.modality import Modality

PTID = r"\d{3}_S_\d{4,5}"
"""A subject's identifier: the site's three digits, then the roster number (RID)."""
DAYS_A_MONTH = 365.25 / 12
DAYS_A_YEAR = 365.25
MISSING_CODES = (-4.0, -1.0)
"""Written where nothing was measured; -1 in ADNI1."""
DIAGNOSES = {"1": "CN", "2": "MCI", "3": "Dementia"}
"""DXSUM's codes, in ADNIMERGE's words."""
PHASES = ((2000, "ADNI1"), (3000, "ADNIGO"), (6000, "ADNI2"), (10000, "ADNI3"))
"""First RID that no longer belongs to the phase; later ones are ADNI4's."""
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


class TargetRule(Configuration):
    """Which visit is a subject's index visit, and what is predicted from it."""

    diagnoses: tuple[str, ...] = Field(("MCI",), min_length=1, description="accepted at the index visit, as in DX")
    horizon_months: float = Field(24.0, gt=0, description="from the index visit to the outcome")
    window_months: float = Field(3.0, ge=0, description="how far from the horizon the outcome may lie")
    image_window_days: int = Field(90, ge=0, description="how far from the index visit an image may lie")


@dataclass(frozen=True)
class Assessment:
    """A dated clinical visit."""

    taken: date
    cdrsb: float | None
    """Points."""
    diagnosis: str
    code: str
    """ADNI's visit code, `bl` or `m12`, with the screening visit counted as `bl`; empty where unknown."""
    phase: str = ""
    age_years: float | None = None
    subject_id: str = ""
    """ADNI's PTID, as `011_S_0002`; empty where the table lacks it."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the columns that tabular modalities ask for."""


@dataclass(frozen=True)
class IndexVisit:
    """The assessment that predictions start from, and its images by modality."""

    assessment: Assessment
    images: Mapping[str, FoundImage]


def adni_visits(
    tables: Path, images: Path, rule: TargetRule, modalities: Sequence[Modality]
) -> tuple[VisitTable, Quarantine]:
    """The index visits of everyone who has one, with their outcomes where known, and who was left out and why.

    Subjects who never have an accepted diagnosis are not of the study and are not itemised. Raises DataError where the
    folders do not hold ADNI's tables and images, or a modality cannot be found in them.
    """
    _require_known(modalities)
    assessments, quarantine = read_assessments(tables, modalities)
    subjects, undated = _images_by_rid(find_images(images), assessments)
    visits: list[Visit] = []
    items = [*quarantine, *undated]
    for rid in sorted(assessments.keys() | subjects.keys()):
        found = subjects.get(rid, [])
        name = _name_of(rid, found, assessments.get(rid, ()))
        if rid not in assessments:
            items.append(Quarantined(name, "", "", Reason.NO_CLINICAL_VISIT))
            continue
        if not any(a.diagnosis in rule.diagnoses and a.cdrsb is not None for a in assessments[rid]):
            continue
        index = choose_index_visit(assessments[rid], found, rule, [m.name for m in modalities if kind_of(m).is_image])
        visit = _visit_of(name, index, assessments[rid], rule, modalities) if index is not None else None
        if visit is None:
            items.append(Quarantined(name, "", "", Reason.NO_MODALITY_IN_TIME))
        elif not re.fullmatch(PTID, name):
            items.append(Quarantined(name, "", "", Reason.NO_PTID))
        else:
            visits.append(visit)
    return VisitTable(tuple(visits)), Quarantine(tuple(items))


def choose_index_visit(
    assessments: Iterable[Assessment], images: Sequence[FoundImage], rule: TargetRule, names: Sequence[str]
) -> IndexVisit | None:
    """Rules 1 and 2 of the module's header for one subject; `names` are the image modalities that count.

    Where none counts (a study of tables only) the earliest visit with diagnosis and CDR-SB is chosen.
    """
    window = timedelta(days=rule.image_window_days)
    for assessment in sorted(assessments, key=lambda a: (a.taken, a.code)):
        if assessment.diagnosis not in rule.diagnoses or assessment.cdrsb is None:
            continue
        near: dict[str, list[FoundImage]] = defaultdict(list)
        for image in images:
            if image.modality in names and image.taken is not None and abs(image.taken - assessment.taken) <= window:
                near[image.modality].append(image)
        if near or not names:
            return IndexVisit(assessment, {m: _preferred(near[m], assessment.taken) for m in names if m in near})
    return None


def outcome(assessments: Iterable[Assessment], index: Assessment, rule: TargetRule) -> float | None:
    """Rule 3 of the module's header: the change in CDR-SB, points; None where nobody was seen near the horizon.

    Of two visits equally near the earlier one counts.
    """
    distances = [
        (abs((a.taken - index.taken).days / DAYS_A_MONTH - rule.horizon_months), a.taken, a.cdrsb)
        for a in assessments
        if a.cdrsb is not None and a.taken > index.taken
    ]
    within = [d for d in distances if d[0] <= rule.window_months]
    return min(within)[2] - index.cdrsb if within and index.cdrsb is not None else None


def phase_of(rid: int) -> str:
    """The phase in which a subject with this roster number enrolled."""
    return next((phase for end, phase in PHASES if rid < end), "ADNI4")


def read_assessments(
    folder: Path, modalities: Sequence[Modality] = ()
) -> tuple[dict[int, list[Assessment]], Quarantine]:
    """Every dated clinical visit by roster number, from ADNIMERGE and what CDR adds to it.

    Raises DataError where neither table is there, where nothing gives diagnoses, or where a column is missing.
    """
    if not folder.is_dir():
        raise DataError(f"no folder of tables at {folder}")
    merge, cdr, summary = (find_table(folder, name) for name in ("ADNIMERGE", "CDR", "DXSUM"))
    if merge is None and cdr is None:
        raise DataError(f"neither ADNIMERGE.csv nor CDR.csv in {folder}; download them from ADNI's archive")
    if merge is None and summary is None:
        raise DataError(f"CDR.csv in {folder} gives no diagnoses; put ADNIMERGE.csv or DXSUM.csv beside it")
    columns = tuple(dict.fromkeys(c for m in modalities for c in kind_of(m).adni_columns(m)))
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


def _images_by_rid(
    images: Iterable[FoundImage], assessments: Mapping[int, Sequence[Assessment]]
) -> tuple[dict[int, list[FoundImage]], list[Quarantined]]:
    """Dated images by roster number. CAPS folders have no dates: the clinical visit of the session's month dates them,
    or, where there is none, that month counted from the first visit."""
    by_rid: dict[int, list[FoundImage]] = defaultdict(list)
    items: list[Quarantined] = []
    for image in images:
        taken = image.taken or _session_date(image.session, assessments.get(image.rid, ()))
        if taken is None and image.rid in assessments:
            items.append(Quarantined(image.subject_id, image.modality, str(image.path), Reason.UNDATED_IMAGE))
        dated = FoundImage(image.subject_id, image.session, image.modality, image.path, image.is_registered, taken)
        by_rid[image.rid].append(dated)
    return dict(by_rid), items


def _session_date(session: str, assessments: Sequence[Assessment]) -> date | None:
    match = re.fullmatch(r"M(\d+)", session)
    if match is None or not assessments:
        return None
    months = int(match[1])
    code = "bl" if months == 0 else f"m{months:02d}"
    same_visit = min((a.taken for a in assessments if a.code == code), default=None)
    return same_visit or min(a.taken for a in assessments) + timedelta(days=round(months * DAYS_A_MONTH))


def _preferred(images: Sequence[FoundImage], day: date) -> FoundImage:
    """The nearest in time; of several of one day a registered one, then the first by name."""
    return min(images, key=lambda i: (abs((i.taken or date.max) - day), not i.is_registered, i.taken, str(i.path)))


def _visit_of(
    subject: str, index: IndexVisit, assessments: Iterable[Assessment], rule: TargetRule, modalities: Sequence[Modality]
) -> Visit | None:
    """The visit in the terms of the visit table; None where it has no modality at all."""
    start = index.assessment
    numbers = {m.name: kind_of(m).adni_numbers(m, start.values) for m in modalities}
    tables = {name: values for name, values in numbers.items() if values is not None}
    if (not index.images and not tables) or start.cdrsb is None:
        return None
    sessions = [image.session for image in index.images.values()]
    return Visit(
        subject_id=subject,
        site=subject.split("_")[0],
        session=sessions[0] if sessions else start.code,
        baseline_cdrsb=start.cdrsb,
        delta_cdrsb=outcome(assessments, start, rule),
        horizon_months=rule.horizon_months,
        age_years=None if start.age_years is None else round(start.age_years, 2),
        phase=start.phase,
        volumes={name: image.path for name, image in index.images.items()},
        tables=tables,
    )


def _name_of(rid: int, images: Sequence[FoundImage], assessments: Sequence[Assessment]) -> str:
    """The PTID that images or else tables give; the bare roster number where neither does."""
    names = [i.subject_id for i in images] + [a.subject_id for a in assessments if a.subject_id]
    return names[0] if names else f"RID {rid}"


def _require_known(modalities: Sequence[Modality]) -> None:
    known = ("t1", "flair", "amyloid", "tau")
    for modality in modalities:
        if kind_of(modality).is_image and modality.name not in known:
            raise DataError(
                f"modality {modality.name!r} cannot be found in ADNI's folders; {nearest(modality.name, known)}. "
                "For any other image write a manifest"
            )


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
