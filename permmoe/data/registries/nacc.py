"""NACC: the Uniform Data Set (UDS) of the Alzheimer's Disease Research Centers, as its quick-access file has it.

One row a visit (`investigator_nacc71.csv`, or `investigator_ftldlbd_nacc71.csv` with the further modules). Read are
NACCID; the centre NACCADC, which is the **site**; the date in VISITMO, VISITDAY and VISITYR; CDRSUM, CDRGLOB,
NACCMMSE; the diagnosis NACCUDSD (1 normal cognition, 2 impaired but not MCI, 3 **MCI**, 4 dementia); NACCAGE;
NACCVNUM; FORMVER. For tabular modalities also the MRI volumes (`investigator_mri_nacc71.csv`, dated by MRIMO, MRIDY,
MRIYR) and SCAN's tables of images (SCANDATE or SCANDT), for example CENTILOIDS of
`investigator_scan_amyloidpetgaain_nacc71.csv`. Names and codes: NACC's Researcher's Data Dictionaries for the UDS and
for imaging.

Codes for what was not measured (-4, 88, 95 to 99, 888 …) are those of permmoe.data.registries.uds_ranges; in tables
of images they are all eights or all nines with decimals (88.8888, 9999.999). Visits are about a year apart, so the
outcome may lie six months from the horizon.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path

from permmoe.data.cells import parse_number
from permmoe.data.images import FoundImage
from permmoe.data.index_visits import date_of_month
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.registries.csv_tables import newest_with, read_columns, tables_under
from permmoe.data.registries.number_tables import Located, read_numbers
from permmoe.data.registries.registry import Registry, RegistryTables
from permmoe.data.registries.scores import SCORES
from permmoe.data.registries.uds_ranges import UDS_RANGES, is_code, measured
from permmoe.data.table_files import Row, TableFile, column_key
from permmoe.data.target_rule import Assessment, TargetRule
from permmoe.errors import DataError, nearest
from permmoe.tracers import canonical_tracer

SCORE_COLUMNS = {"cdr-sb": ("CDRSUM",), "cdr-global": ("CDRGLOB",), "mmse": ("NACCMMSE",)}
DIAGNOSES = {1: "CN", 2: "Impaired", 3: "MCI", 4: "Dementia"}
"""NACCUDSD."""
VISIT = ("VISITYR", "VISITMO", "VISITDAY")
IMAGE_DAYS = (("MRIYR", "MRIMO", "MRIDY"),)
IMAGE_DATES = ("SCANDATE", "SCANDT")
TRACERS = {
    2: "PiB", 3: "AV45", 4: "FBB", 5: "NAV4694", 6: "AV1451", 7: "MK6240", 8: "PI2620", 9: "GTP1",
}  # fmt: skip
"""TRACER of SCAN's tables of PET (1 is FDG, 99 unknown), as NACC's own `nacc-attribute-deriver` reads it."""
_NACCID = re.compile(r"NACC\d{6}")
_PLACEHOLDER = re.compile(r"8{2,}\.8{3,}|9{2,}\.9{3,}|8{3,}|9{3,}")
"""How tables of images write that nothing was computed: 88.8888, 9999.999; 9.9 and 99.9 are numbers."""
_SIGNED = "CENTILOIDS"
"""How the names of columns begin whose values may be negative: there −4 is a measurement."""


def nacc() -> Registry:
    """NACC."""
    return Registry(
        name="NACC",
        rule=TargetRule(window_months=6.0, image_window_days=180),
        scores=SCORE_COLUMNS,
        read=_read,
        subject_of=lambda label: label.upper() if _NACCID.fullmatch(label.upper()) else None,
        day_of=_day_of,
    )


def _day_of(image: FoundImage, assessments: Sequence[Assessment]) -> date | None:
    """From the tables beside the images; else from the session, as `20150321` or `M012`."""
    if image.taken is not None:
        return image.taken
    if re.fullmatch(r"(?:19|20)\d{6}", image.session):
        with suppress(ValueError):
            return date(int(image.session[:4]), int(image.session[4:6]), int(image.session[6:]))
    return date_of_month(image.session, assessments)


def _read(folder: Path, score: str, columns: Sequence[str]) -> RegistryTables:
    paths = tables_under(folder)
    uds = newest_with(paths, "NACCID", *VISIT)
    if uds is None:
        raise DataError(
            f"no table in {folder} has NACCID and {', '.join(VISIT)}; put NACC's quick-access file of the UDS there "
            "(investigator_nacc….csv)",
            for_log="no table of NACC's UDS visits is there",
        )
    own = ("NACCID", "NACCADC", *VISIT, "NACCUDSD", "NACCAGE", "NACCVNUM", "FORMVER", *SCORE_COLUMNS[score])
    table = read_columns(uds, own)
    table.require("NACCID", "NACCADC", *VISIT, "NACCUDSD", *SCORE_COLUMNS[score])
    _require_known_ranges(table, columns)
    assessments: dict[str, list[Assessment]] = defaultdict(list)
    sites: dict[str, str] = {}
    items: list[Quarantined] = []
    for line, row in table.rows:
        subject, found = row["NACCID"].upper(), f"{uds.name}:{line}"
        if not _NACCID.fullmatch(subject):
            items.append(Quarantined(subject, "", found, Reason.NO_IDENTITY))
            continue
        value = _score(row, score)
        taken = _date(row, VISIT)
        if taken is None:
            if value is not None:
                items.append(Quarantined(subject, "", found, Reason.UNDATED_VISIT))
            continue
        if value is not None and not SCORES[score].holds(value):
            items.append(Quarantined(subject, "", found, Reason.IMPOSSIBLE_SCORE))
            continue
        if site := _whole(row.get("NACCADC", "")):
            sites.setdefault(subject, f"NACC{site}")
        assessments[subject].append(
            Assessment(
                taken=taken,
                cdrsb=value,
                diagnosis=DIAGNOSES.get(_whole(row["NACCUDSD"]) or 0, ""),
                code=f"v{_whole(row.get('NACCVNUM', '')) or ''}",
                phase=f"UDS{version}" if (version := _whole(row.get("FORMVER", ""))) else "",
                age_years=measured("NACCAGE", parse_number(row.get("NACCAGE", ""))),
            )
        )
    place_columns = ["NACCID", *VISIT, *(name for days in IMAGE_DAYS for name in days), *IMAGE_DATES, "TRACER"]
    in_order = [uds, *(path for path in paths if path != uds)]
    numbers = read_numbers(in_order, columns, place_columns, _locate, _measured, _tracer) if columns else []
    return RegistryTables(dict(assessments), sites, numbers, items, [f"visits are from {uds.name}"])


def _require_known_ranges(table: TableFile, columns: Sequence[str]) -> None:
    """Refuse a column of the UDS whose codes for what was not measured are not known here."""
    for name in columns:
        if table.has(name) and column_key(name) not in UDS_RANGES:
            raise DataError(
                f"the range of {name!r} is not known here, so that its codes (88, 99, -4 …) would be read as numbers; "
                f"{nearest(name, UDS_RANGES)}. For any other column write a manifest"
            )


def _locate(table: TableFile) -> Located | None:
    """By the date of the visit or of the scan."""
    if not table.has("NACCID"):
        return None
    days = next((names for names in (VISIT, *IMAGE_DAYS) if table.has(*names)), None)
    dated = next((name for name in IMAGE_DATES if table.has(name)), None)
    if days is None and dated is None:
        return None
    read = table.dates(dated) if dated else None

    def place(row: Row) -> tuple[str, date] | None:
        day = read(row[dated]) if read and dated else _date(row, days or ())
        return (row["NACCID"].upper(), day) if day else None

    return Located(place, is_of_scans=days != VISIT)


def _measured(column: str, text: str, number: float | None) -> float | None:
    if column_key(column) in UDS_RANGES:
        return measured(column, number)
    is_code = number == -4 and not column_key(column).startswith(_SIGNED)
    return None if is_code or _PLACEHOLDER.fullmatch(text) else number


def _tracer(row: Row) -> str:
    """The tracer of a row of SCAN's, by its code or its name."""
    text = row.get("TRACER", "")
    code = _whole(text)
    return TRACERS.get(code, "") if code is not None else canonical_tracer(text) or text


def _score(row: Row, score: str) -> float | None:
    """The score of a row, points; None where a code says that there is none."""
    number = parse_number(row[SCORE_COLUMNS[score][0]])
    return None if number is not None and not SCORES[score].holds(number) and is_code(number) else number


def _date(row: Row, columns: Sequence[str]) -> date | None:
    """From year, month and day in columns of their own."""
    year, month, day = (_whole(row.get(column, "")) or 0 for column in columns)
    with suppress(ValueError):
        return date(year, month, day)
    return None


def _whole(text: str) -> int | None:
    """A whole number that is not negative: `3`, `3.0`; of `3.2`, a form's version, 3."""
    number = parse_number(text)
    return int(number) if number is not None and 0 <= number < 1e9 else None
