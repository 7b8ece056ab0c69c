"""OASIS-3: what Washington University's Knight Alzheimer Disease Research Center collected, day by day since entry.

Tables: `OASIS3_data_files` of the project on NITRC-IR. Read are the clinical ratings (form B4 of the UDS, with
CDRSUM, CDRTOT, MMSE and dx1; or the older "ADRC clinical data", with sumbox, cdr, mmse and dx1), the clinicians'
diagnoses (form D1, with NORMCOG, MCIAMEM, DEMENTED …), ages (OASIS3_demographics, AgeatEntry), and for tabular
modalities any table with a label or days: OASIS3_amyloid_centiloid, OASIS3_PUP, OASIS3_Freesurfer_output, further UDS
forms. Names of columns: the data dictionaries of the release (LaMontagne et al. 2019, medRxiv 19014902) and Clinica's
`oasis3-to-bids`.

No date of a calendar is released. Days count from each subject's entry and stand in labels, `OAS30001_MR_d0129`, and
in sessions, `ses-d0129`; here day 0 is `ENTRY`, for everybody.

**Site.** OASIS-3 is one centre with several scanners, so every visit has the site `OASIS3`.

**MCI.** Knight ADRC diagnoses most people with a global CDR of 0.5 as very mild Alzheimer dementia, so its form D1
hardly ever says MCI. By default a visit therefore counts as MCI where the global CDR is 0.5, as CN where it is 0, and
else as Dementia; `form` takes D1 instead, and dx1 where there is no D1.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Literal

from permmoe.data.cells import parse_number
from permmoe.data.images import FoundImage
from permmoe.data.index_visits import date_of_month
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.registries.csv_tables import header_of, newest_with, read_columns, tables_under
from permmoe.data.registries.number_tables import Located, Place, read_numbers
from permmoe.data.registries.registry import Registry, RegistryTables
from permmoe.data.registries.scores import SCORES
from permmoe.data.registries.uds_ranges import UDS_RANGES, is_code, measured
from permmoe.data.table_files import Row, TableFile, column_key
from permmoe.data.target_rule import Assessment, TargetRule
from permmoe.errors import DataError
from permmoe.tracers import canonical_tracer

SITE = "OASIS3"
ENTRY = date(2000, 1, 1)
"""Stands for the day of a subject's entry; which day it was is not released."""
DAYS_A_YEAR = 365.25
BOXES = ("memory", "orient", "judgment", "commun", "homehobb", "perscare")
"""The six scores that CDR-SB is the sum of."""
SCORE_COLUMNS = {"cdr-sb": ("CDRSUM", "sumbox"), "cdr-global": ("CDRTOT", "cdr"), "mmse": ("MMSE", "mmse")}
MCI_FLAGS = ("MCIAMEM", "MCIAPLUS", "MCINON1", "MCINON2")
FLAGS = ("NORMCOG", "DEMENTED", "IMPNOMCI", *MCI_FLAGS)
SUBJECTS = ("OASISID", "Subject", "subject_id")
LABELS = (
    "OASIS_session_label", "ADRC_ADRCCLINICALDATA ID", "MR_session", "oasis_session_id", "PUP_PUPTIMECOURSEDATA ID",
    "MR ID", "FS_FSDATA ID", "label",
)  # fmt: skip
"""Columns that hold labels: each names a subject and a day."""
QUALITY = ("FS QC Status", "FreeSurfer QC Status", "PET TC QC Status")
"""Where one of these is filled, only rows that passed are read: `Passed`, `Passed with edits`."""
TRACER = "tracer"
"""What PUP's table and that of Centiloids call a scan's tracer by: `PIB`, `AV45`, `AV1451`."""
_LABEL = re.compile(r"(OAS3\d{4})_.+_d(-?\d+)")
_SUBJECT = re.compile(r"OAS3\d{4}")
_WHERE = (*SUBJECTS, *LABELS, "days_to_visit")
MciBy = Literal["cdr", "form"]


def oasis3(mci: MciBy = "cdr") -> Registry:
    """OASIS-3, with MCI by the global CDR or by the clinicians' form."""
    return Registry(
        name="OASIS-3",
        rule=TargetRule(window_months=6.0, image_window_days=365),
        scores=SCORE_COLUMNS,
        read=partial(_read, mci),
        subject_of=lambda label: label.upper() if _SUBJECT.fullmatch(label.upper()) else None,
        day_of=_day_of,
        has_calendar=False,
    )


def _day_of(image: FoundImage, assessments: Sequence[Assessment]) -> date | None:
    """From the session, `d0129`, or by Clinica's months."""
    match = re.fullmatch(r"d(-?\d+)", image.session, re.IGNORECASE)
    return ENTRY + timedelta(days=int(match[1])) if match else date_of_month(image.session, assessments)


def _read(mci: MciBy, folder: Path, score: str, columns: Sequence[str]) -> RegistryTables:
    paths = tables_under(folder)
    clinical = newest_with(paths, "CDRSUM", "CDRTOT") or newest_with(paths, "sumbox", "cdr")
    if clinical is None:
        raise DataError(
            f"no table in {folder} has CDRSUM and CDRTOT (OASIS3_UDSb4_cdr.csv) or sumbox and cdr (the ADRC clinical "
            "data); download OASIS3_data_files",
            for_log="no table has the clinical ratings",
        )
    notes = [f"scores are from {clinical.name}"]
    ages = _ages_at_entry(paths)
    flags = _flags(paths) if mci == "form" else {}
    if mci == "form" and not flags:
        notes.append("no table has the clinicians' form D1; diagnoses are from dx1")
    own = (*SCORE_COLUMNS[score], *SCORE_COLUMNS["cdr-global"], "dx1", *BOXES, "age at visit", "ageAtEntry")
    table = read_columns(clinical, [*own, *_WHERE])
    assessments: dict[str, list[Assessment]] = defaultdict(list)
    items: list[Quarantined] = []
    place = _place(table)
    for line, row in table.rows:
        where = place(row) if place else None
        value = _score(row, score)
        found = f"{clinical.name}:{line}"
        if where is None:
            if value is not None:
                items.append(Quarantined("", "", found, Reason.UNDATED_VISIT))
            continue
        subject, taken = where
        day = (taken - ENTRY).days
        age = _number(row, "age at visit")
        if age is None:
            entered = _number(row, "ageAtEntry") or ages.get(subject)
            age = None if entered is None else entered + day / DAYS_A_YEAR
        if age is not None and not 0 < age < 130:
            items.append(Quarantined(subject, "", found, Reason.IMPOSSIBLE_AGE))
            continue
        if value is not None and not SCORES[score].holds(value):
            items.append(Quarantined(subject, "", found, Reason.IMPOSSIBLE_SCORE))
            continue
        by_form = flags.get((subject, day), "") or _by_words(row.get("DX1", ""))
        diagnosis = _by_cdr(row) if mci == "cdr" else by_form
        assessments[subject].append(Assessment(taken, value, diagnosis, f"d{day:04d}", age_years=age))
    numbers = read_numbers(paths, columns, [*_WHERE, *QUALITY, TRACER], _locate, _measured, _tracer) if columns else []
    return RegistryTables(dict(assessments), dict.fromkeys(assessments, SITE), numbers, items, notes)


def _locate(table: TableFile) -> Located | None:
    """Forms have the days of their visit; what has a label alone is a scan."""
    place = _place(table)
    return Located(place, is_of_scans=not table.has("days_to_visit")) if place else None


def _place(table: TableFile) -> Place | None:
    """Whose row it is and of which day: by subject and days, or by a label. None where the table has neither."""
    subjects = [column_key(name) for name in SUBJECTS if table.has(name)]
    labels = [column_key(name) for name in LABELS if table.has(name)]
    has_days = bool(subjects) and table.has("days_to_visit")
    quality = [column_key(name) for name in QUALITY if table.has(name)]
    if not has_days and not labels:
        return None

    def place(row: Row) -> tuple[str, date] | None:
        if any(row[key] and not row[key].lower().startswith("passed") for key in quality):
            return None
        found = next((match for key in labels if (match := _LABEL.fullmatch(row[key]))), None)
        days = parse_number(row["DAYS_TO_VISIT"]) if has_days else None
        subject = next((row[key] for key in subjects if row[key]), "") or (found[1] if found else "")
        if days is None and found:
            days = float(found[2])
        if days is None or not _SUBJECT.fullmatch(subject) or not abs(days) < 60_000:
            return None
        return subject, ENTRY + timedelta(days=int(days))

    return place


def _measured(column: str, text: str, number: float | None) -> float | None:
    """Numbers of UDS forms within their range; of what was measured in images, all."""
    return measured(column, number) if column_key(column) in UDS_RANGES else number


def _tracer(row: Row) -> str:
    name = row.get(column_key(TRACER), "")
    return canonical_tracer(name) or name


def _number(row: Row, column: str) -> float | None:
    """A finite number; None where nothing, `.` or a text stands."""
    number = parse_number(row.get(column_key(column), ""))
    return number if number is not None and number == number else None


def _score(row: Row, score: str) -> float | None:
    """The score of a row, points; CDR-SB also from its six boxes."""
    number = next((n for column in SCORE_COLUMNS[score] if (n := _number(row, column)) is not None), None)
    if number is None and score == "cdr-sb":
        boxes = [_number(row, box) for box in BOXES]
        known = [box for box in boxes if box is not None and 0 <= box <= 3]
        number = sum(known) if len(known) == len(BOXES) else None
    return None if number is not None and not SCORES[score].holds(number) and is_code(number) else number


def _by_cdr(row: Row) -> str:
    rating = _score(row, "cdr-global")
    if rating is None or not 0 <= rating <= 3:
        return ""
    return "CN" if rating == 0 else "MCI" if rating == 0.5 else "Dementia"


def _by_words(text: str) -> str:
    """The diagnosis of dx1, which is free text; empty where it is uncertain."""
    words = text.lower()
    if words.startswith("cognitively normal"):
        return "CN"
    if "mci" in words or "mild cognitive" in words:
        return "MCI"
    is_uncertain = words.startswith("unc") or "ques" in words
    return "Dementia" if not is_uncertain and re.search(r"\bdem", words) else ""


def _flags(paths: Sequence[Path]) -> dict[tuple[str, int], str]:
    """Diagnoses of form D1 by subject and day."""
    found = newest_with(paths, "NORMCOG", "MCIAMEM", "DEMENTED")
    if found is None:
        return {}
    table = read_columns(found, [*FLAGS, *_WHERE])
    place = _place(table)
    diagnoses: dict[tuple[str, int], str] = {}
    for _, row in table.rows:
        where = place(row) if place else None
        flags = {name for name in FLAGS if _number(row, name) == 1}
        if where and flags:
            is_mci = bool(flags & set(MCI_FLAGS))
            word = (
                "Dementia" if "DEMENTED" in flags else "MCI" if is_mci else "CN" if "NORMCOG" in flags else "Impaired"
            )
            diagnoses[where[0], (where[1] - ENTRY).days] = word
    return diagnoses


def _by_flags(flags: set[str]) -> str:
    if "DEMENTED" in flags:
        return "Dementia"
    if flags & set(MCI_FLAGS):
        return "MCI"
    return "CN" if "NORMCOG" in flags else "Impaired"


def _ages_at_entry(paths: Sequence[Path]) -> dict[str, float]:
    found = next((path for path in paths if "AGEATENTRY" in map(column_key, header_of(path))), None)
    if found is None:
        return {}
    table = read_columns(found, ["AgeatEntry", *SUBJECTS])
    subjects = [column_key(name) for name in SUBJECTS if table.has(name)]
    ages: dict[str, float] = {}
    for _, row in table.rows:
        age = _number(row, "AgeatEntry")
        if subjects and age is not None:
            ages.setdefault(row[subjects[0]], age)
    return ages
