"""A manifest of prepared images: one row a subject, with scores that a site's own table holds, or empty for them.

A subject's visit is the session that the table of scores names (`session`), else the day that it names (`visit_date`),
else the first T1's: by day, then by the session's label. Of each modality the image nearest to that day counts, within
a window; an image whose day is not known counts in its own session alone. Where scores are of a day, and of several
sessions none has one, nothing tells which is the visit's: the subject is itemised.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from permmoe.data.image_names import PTID, bids_label
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
    """Write the manifest at `out`; returns subjects that only one of the two tables has or of no known visit."""
    by_subject: defaultdict[str, list[Derivative]] = defaultdict(list)
    for image in images:
        by_subject[image.scan.subject_id].append(image)
    wanted = sorted(by_subject) if scores is None else [s for s in sorted(by_subject) if s in scores.rows]
    extra = scores.columns if scores else ()
    anchors = {subject: _anchor(subject, by_subject[subject], scores) for subject in wanted}
    rows = [
        _row(out.parent, subject, anchor, by_subject[subject], scores, site, extra)
        for subject, anchor in anchors.items()
        if anchor is not None
    ]
    write_csv_atomically(out, (*HEADER, *extra), rows)
    if scores is None:
        return Quarantine()
    undated = [Quarantined(s, "", "", Reason.UNDATED_SESSIONS) for s, anchor in anchors.items() if anchor is None]
    without_scores = [Quarantined(s, "", "", Reason.NO_CLINICAL_VISIT) for s in by_subject if s not in scores.rows]
    without_images = [Quarantined(s, "", "", Reason.NO_MODALITY) for s in scores.rows if s not in by_subject]
    return Quarantine((*undated, *without_scores, *without_images))


def _anchor(subject: str, own: Sequence[Derivative], scores: Scores | None) -> Derivative | None:
    """The image whose session is the visit's; None where nothing tells which it is."""
    label = bids_label(scores.rows[subject].get("SESSION", "").removeprefix("ses-")) if scores else ""
    day = scores.days.get(subject) if scores else None
    named = [d for d in own if label and bids_label(d.scan.session) == label]
    dated = [d for d in own if d.scan.taken]
    of_visit = named or (dated if day is not None else own)
    if not of_visit and len({d.scan.session for d in own}) == 1:
        of_visit = own
    return min(
        of_visit,
        key=lambda d: (d.scan.modality != "t1", _days(d, day), d.scan.taken or date.max, d.scan.session),
        default=None,
    )


def _row(
    folder: Path,
    subject: str,
    anchor: Derivative,
    own: Sequence[Derivative],
    scores: Scores | None,
    site: str,
    extra: Sequence[str],
) -> list[str]:
    said = scores.rows[subject] if scores else {}
    cells = {name: said.get(column_key(name), "") for name in (*HEADER, *extra)}
    visit_day = scores.days.get(subject) if scores else None
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
