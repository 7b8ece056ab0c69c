"""A manifest of prepared images: one row a subject, with scores that a site's own table holds, or empty for them.

A subject's visit is the day that the table of scores names (`visit_date`), or else that of its first T1. Of each
modality the image nearest to that day counts, within a window; where days are not known, that of the same session.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from permmoe.data.image_names import PTID
from permmoe.data.quarantine import Quarantine, Quarantined, write_csv_atomically
from permmoe.data.reasons import Reason
from permmoe.data.table_files import Row, column_key, read_table
from permmoe.errors import DataError
from permmoe.preparation.derivatives import Derivative
from permmoe.preparation.scan import MODALITIES

IMAGE_WINDOW_DAYS = 90
HEADER = ("subject_id", "site", "session", "baseline_cdrsb", "delta_cdrsb", "horizon_months", *MODALITIES)


@dataclass(frozen=True)
class Scores:
    """A site's own table: a row a subject."""

    columns: tuple[str, ...]
    """Beside those of a manifest, such as tabular modalities' and `age_years`, as they are spelt."""
    rows: Mapping[str, Row]
    """Cells by `permmoe.data.table_files.column_key`, as they were written."""
    days: Mapping[str, date]
    """Days of visits, by subject, as far as the table has `visit_date`."""


def read_scores(path: Path) -> Scores:
    """A table with `subject_id`, and any of `visit_date`, `site` and the other columns of a manifest.

    Raises DataError where it cannot be read, has no `subject_id`, or has a subject twice.
    """
    table = read_table(path)
    table.require("subject_id")
    rows: dict[str, Row] = {}
    for line, row in table.rows:
        subject = row[column_key("subject_id")]
        if subject in rows:
            raise DataError(f"{path}, line {line}: the subject has a row above; keep one row a subject")
        rows[subject] = row
    read, key = table.dates("visit_date"), column_key("visit_date")
    days = {subject: day for subject, row in rows.items() if (day := read(row.get(key, ""))) is not None}
    known = {column_key(name) for name in (*HEADER, "visit_date")}
    return Scores(tuple(name for name in table.header if name and column_key(name) not in known), rows, days)


def write_visit_table(out: Path, images: Iterable[Derivative], scores: Scores | None, site: str) -> Quarantine:
    """Write the manifest at `out`; returns subjects that only one of the two tables has."""
    by_subject: defaultdict[str, list[Derivative]] = defaultdict(list)
    for image in images:
        by_subject[image.scan.subject_id].append(image)
    wanted = sorted(by_subject) if scores is None else [s for s in sorted(by_subject) if s in scores.rows]
    extra = scores.columns if scores else ()
    rows = [_row(out.parent, subject, by_subject[subject], scores, site, extra) for subject in wanted]
    write_csv_atomically(out, (*HEADER, *extra), rows)
    if scores is None:
        return Quarantine()
    without_scores = [Quarantined(s, "", "", Reason.NO_CLINICAL_VISIT) for s in by_subject if s not in scores.rows]
    without_images = [Quarantined(s, "", "", Reason.NO_MODALITY) for s in scores.rows if s not in by_subject]
    return Quarantine((*without_scores, *without_images))


def _row(
    folder: Path, subject: str, own: Sequence[Derivative], scores: Scores | None, site: str, extra: Sequence[str]
) -> list[str]:
    said = scores.rows[subject] if scores else {}
    cells = {name: said.get(column_key(name), "") for name in (*HEADER, *extra)}
    visit_day = scores.days.get(subject) if scores else None
    anchor = min(own, key=lambda d: (d.scan.modality != "t1", _days(d, visit_day), d.scan.taken or date.max))
    day = visit_day or anchor.scan.taken
    of = {name: [d for d in own if d.scan.modality == name] for name in MODALITIES}
    chosen = {name: _nearest(images, day, anchor.scan.session) for name, images in of.items()}
    cells["subject_id"], cells["session"] = subject, anchor.scan.session
    cells["site"] = cells["site"] or (subject[:3] if re.fullmatch(PTID, subject) else site)
    cells |= {name: d.image.relative_to(folder).as_posix() if d else "" for name, d in chosen.items()}
    return [cells[name] for name in (*HEADER, *extra)]


def _days(image: Derivative, day: date | None) -> int:
    """How many days an image lies from a visit; 0 where one of the two days is not known."""
    return abs((image.scan.taken - day).days) if image.scan.taken and day else 0


def _nearest(images: Sequence[Derivative], day: date | None, session: str) -> Derivative | None:
    """The image nearest to a day, within the window; one whose day is not known counts in its own session alone."""
    known = [d for d in images if (d.scan.taken and day) or d.scan.session == session]
    near = [d for d in known if _days(d, day) <= IMAGE_WINDOW_DAYS]
    return min(near, key=lambda d: (_days(d, day), d.scan.session != session, d.scan.session), default=None)
