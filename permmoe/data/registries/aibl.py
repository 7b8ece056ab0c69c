"""AIBL: the Australian Imaging, Biomarkers and Lifestyle study, as LONI's archive has it.

Tables of `Data_extract_3.3.0`, found by their columns: the CDR (`aibl_cdr_01-Jun-2018.csv`: RID, SITEID, VISCODE,
EXAMDATE, CDGLOBAL), the diagnosis (`aibl_pdxconv_…`: DXCURREN, 1 normal, 2 **MCI**, 3 Alzheimer's disease; or the
flags DXNORM, DXMCI, DXAD), demography (`aibl_ptdemog_…`: PTDOB, a year), the MMSE (`aibl_mmse_…`: MMSCORE), and for
tabular modalities any table with RID and VISCODE (`aibl_neurobat_…`, `aibl_labdata_…`). A visit is RID and VISCODE
(`bl`, `m18`, `m36` …); -4 and -1 mean that nothing is known. Names of columns: the archive's data dictionary, and
Clinica's `aibl-to-bids`.

**Score.** The open extract has the global CDR and the MMSE, and no CDR-SB and no box scores: these come only with
data that AIBL itself gives out, under CDRSB, or CDMEMORY and its five companions. Without them choose another score.

**Target.** Visits are 18 months apart, so the outcome is that of 18 months after the index visit, ±6, where ADNI's is
two years; 36 is the next that exists.

**Dates.** EXAMDATE is month/day/year; where the day is hidden (`10//2007`, `10/2007`) the 15th stands for it. A visit
that its own table does not date has the date of the same visit in another table, or its months after the first.

**Site.** SITEID, as `AIBL1`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from permmoe.data.cells import parse_number
from permmoe.data.diagnoses import CURRENT
from permmoe.data.index_visits import date_of_month
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.registries.csv_tables import header_of, newest_with, read_columns, tables_under
from permmoe.data.registries.number_tables import Located, Place, read_numbers
from permmoe.data.registries.registry import Registry, RegistryTables
from permmoe.data.registries.scores import SCORES
from permmoe.data.table_files import Row, TableFile, column_key
from permmoe.data.target_rule import DAYS_A_MONTH, Assessment, TargetRule
from permmoe.errors import DataError

SCORE_COLUMNS = {"cdr-sb": ("CDRSB",), "cdr-global": ("CDGLOBAL",), "mmse": ("MMSCORE",)}
BOXES = ("CDMEMORY", "CDORIENT", "CDJUDGE", "CDCOMMUN", "CDHOME", "CDCARE")
"""The six scores that CDR-SB is the sum of."""
FLAGS = {"DXMCI": "MCI", "DXAD": "Dementia", "DXNORM": "CN"}
VISIT = ("RID", "VISCODE")
DAYS_A_YEAR = 365.25
MISSING = (-4.0, -1.0)
Visit = tuple[int, str]
"""RID and visit code."""


def aibl() -> Registry:
    """AIBL."""
    return Registry(
        name="AIBL",
        rule=TargetRule(horizon_months=18.0, window_months=6.0, image_window_days=180),
        scores=SCORE_COLUMNS,
        read=_read,
        subject_of=_subject_of,
        day_of=lambda image, assessments: image.taken or date_of_month(image.session, assessments),
    )


def _subject_of(label: str) -> str | None:
    match = re.fullmatch(r"(?:AIBL)?0*(\d{1,7})", label, re.IGNORECASE)
    return f"AIBL{match[1]}" if match else None


@dataclass
class _Visit:
    """What the tables say of one visit, gathered from all of them."""

    score: float | None = None
    diagnosis: str = ""
    where: str = ""
    """The row of its score or diagnosis."""


def _read(folder: Path, score: str, columns: Sequence[str]) -> RegistryTables:
    paths = tables_under(folder)
    of_visits = [path for path in paths if {*VISIT} <= set(map(column_key, header_of(path)))]
    scored = _score_table(of_visits, score, folder)
    diagnosed = newest_with(of_visits, "DXCURREN") or newest_with(of_visits, *FLAGS)
    if diagnosed is None:
        raise DataError(
            f"no table in {folder} has RID, VISCODE and DXCURREN; put aibl_pdxconv_….csv beside the others",
            for_log="no table has AIBL's diagnoses",
        )
    visits: dict[Visit, _Visit] = defaultdict(_Visit)
    table = read_columns(scored, [*VISIT, *SCORE_COLUMNS[score], *BOXES])
    for visit, line, row in _visit_rows(table):
        value = _score(row, score)
        if value is not None and visits[visit].score is None:
            visits[visit].score, visits[visit].where = value, f"{scored.name}:{line}"
    table = read_columns(diagnosed, [*VISIT, "DXCURREN", *FLAGS])
    for visit, line, row in _visit_rows(table):
        word = CURRENT.get(int(_known(row.get("DXCURREN", "")) or 0), "")
        word = word or next((name for flag, name in FLAGS.items() if _known(row.get(flag, "")) == 1), "")
        visits[visit].diagnosis = visits[visit].diagnosis or word
        visits[visit].where = visits[visit].where or f"{diagnosed.name}:{line}"
    people = _people(paths)
    dates = _dates([scored, diagnosed, *of_visits], visits)
    items: list[Quarantined] = []
    assessments: dict[str, list[Assessment]] = defaultdict(list)
    for (rid, code), found in sorted(visits.items()):
        name, taken = f"AIBL{rid}", dates.of.get((rid, code))
        if taken is None:
            if found.score is not None:
                items.append(Quarantined(name, "", found.where, Reason.UNDATED_VISIT))
            continue
        if found.score is not None and not SCORES[score].holds(found.score):
            items.append(Quarantined(name, "", found.where, Reason.IMPOSSIBLE_SCORE))
            continue
        born = people.births.get(rid)
        age = None if born is None else (taken - born).days / DAYS_A_YEAR
        assessments[name].append(Assessment(taken, found.score, found.diagnosis, code, age_years=age))
    notes = [f"scores are from {scored.name}, diagnoses from {diagnosed.name}", *dates.notes]
    located = Located(_place(dates.of), is_of_scans=False)
    numbers = read_numbers(of_visits, columns, VISIT, lambda table: located, _measured) if columns else []
    sites = {f"AIBL{rid}": f"AIBL{site}" for rid, site in people.sites.items()}
    return RegistryTables(dict(assessments), sites, numbers, items, notes)


def _score_table(paths: Sequence[Path], score: str, folder: Path) -> Path:
    found = newest_with(paths, *SCORE_COLUMNS[score])
    if found is None and score == "cdr-sb":
        found = newest_with(paths, *BOXES)
    if found is not None:
        return found
    others = [name for name, columns in SCORE_COLUMNS.items() if newest_with(paths, *columns)]
    if score == "cdr-sb":
        raise DataError(
            f"no table in {folder} has CDRSB or the six box scores ({', '.join(BOXES)}): AIBL's open extract has the "
            f"global CDR and no CDR-SB; choose another score: --score {' or '.join(others) or 'mmse'}",
            for_log="no table has CDR-SB",
        )
    raise DataError(
        f"no table in {folder} has {' or '.join(SCORE_COLUMNS[score])} beside RID and VISCODE; download it",
        for_log=f"no table has {' or '.join(SCORE_COLUMNS[score])}",
    )


def _visit_rows(table: TableFile) -> Iterable[tuple[Visit, int, Row]]:
    for line, row in table.rows:
        if (visit := _visit(row)) is not None:
            yield visit, line, row


def _visit(row: Row) -> Visit | None:
    rid, code = _known(row.get("RID", "")), row.get("VISCODE", "").lower()
    return (int(rid), "bl" if code in ("sc", "m0", "m00") else code) if rid is not None and code else None


def _score(row: Row, score: str) -> float | None:
    value = next((n for column in SCORE_COLUMNS[score] if (n := _known(row.get(column, ""))) is not None), None)
    if value is None and score == "cdr-sb":
        boxes = [box for name in BOXES if (box := _known(row.get(name, ""))) is not None]
        value = sum(boxes) if len(boxes) == len(BOXES) else None
    return value


def _known(text: str) -> float | None:
    """A cell's number; None where nothing is known, and for a text."""
    number = parse_number(text)
    return None if number is None or number in MISSING or number != number else number


def _measured(column: str, text: str, number: float | None) -> float | None:
    return None if number in MISSING else number


def _place(dates: Mapping[Visit, date]) -> Place:
    def place(row: Row) -> tuple[str, date] | None:
        visit = _visit(row)
        day = dates.get(visit) if visit else None
        return (f"AIBL{visit[0]}", day) if visit and day else None

    return place


@dataclass(frozen=True)
class _Dates:
    of: Mapping[Visit, date]
    notes: Sequence[str] = field(default_factory=tuple)


def _dates(paths: Iterable[Path], visits: Iterable[Visit]) -> _Dates:
    """The day of every visit that a table dates, from the first table that does; of others, from its months."""
    of: dict[Visit, date] = {}
    for path in dict.fromkeys(paths):
        if "EXAMDATE" in map(column_key, header_of(path)):
            for visit, _, row in _visit_rows(read_columns(path, [*VISIT, "EXAMDATE"])):
                day = _day(row["EXAMDATE"], path)
                if day is not None:
                    of.setdefault(visit, day)
    first = {rid: day for (rid, code), day in of.items() if code == "bl"}
    n = 0
    for rid, code in set(visits) - of.keys():
        months = re.fullmatch(r"m(\d+)", code)
        if months and rid in first:
            of[rid, code] = first[rid] + timedelta(days=round(int(months[1]) * DAYS_A_MONTH))
            n += 1
    return _Dates(of, [f"{n} visit(s) have no date; they are their code's months after the first"] if n else [])


def _day(text: str, path: Path) -> date | None:
    """Month/day/year, or ISO; None for a code. Raises DataError for a column of day/month/year."""
    match = re.fullmatch(r"(\d{1,2})/\s*(\d{0,2})\s*/?\s*(\d{4})", text)
    if match is None:
        with suppress(ValueError):
            return date.fromisoformat(text[:10])
        return None
    if int(match[1]) > 12:
        raise DataError(
            f"EXAMDATE of {path} is not month/day/year, for example {text!r}; download the table again",
            for_log="EXAMDATE is not month/day/year",
        )
    with suppress(ValueError):
        return date(int(match[3]), int(match[1]), int(match[2] or 15))
    return None


@dataclass(frozen=True)
class _People:
    births: Mapping[int, date]
    sites: Mapping[int, str]


def _people(paths: Iterable[Path]) -> _People:
    """Years of birth, of which the middle stands for the day, and sites, from whichever tables have them."""
    births: dict[int, date] = {}
    sites: dict[int, str] = {}
    for path in paths:
        keys = set(map(column_key, header_of(path)))
        if "RID" not in keys or not keys & {"PTDOB", "SITEID"}:
            continue
        for _, row in read_columns(path, ["RID", "PTDOB", "SITEID"]).rows:
            rid, year = _known(row["RID"]), re.search(r"(?:18|19|20)\d{2}", row.get("PTDOB", ""))
            site = _known(row.get("SITEID", ""))
            if rid is not None and year:
                births.setdefault(int(rid), date(int(year[0]), 7, 1))
            if rid is not None and site is not None:
                sites.setdefault(int(rid), f"{site:g}")
    return _People(births, sites)
