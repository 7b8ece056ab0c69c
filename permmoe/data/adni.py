"""ADNI as people hold it: its clinical tables and Clinica's image folders become the one visit table.

Each subject (roster number, RID) has at most one visit, chosen by permmoe.data.target_rule.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from itertools import chain
from pathlib import Path

from permmoe.data.adni_tables import read_assessments
from permmoe.data.image_names import PTID
from permmoe.data.images import FoundImage, find_images
from permmoe.data.index_visits import (
    Subject,
    notes_of_images,
    require_diagnoses,
    require_image_modalities,
    select_index_visits,
)
from permmoe.data.kinds import kind_of
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.selection import Selection
from permmoe.data.target_rule import DAYS_A_MONTH, Assessment, TargetRule
from permmoe.data.visits import VisitTable
from permmoe.modality import Modality


def adni_visits(
    tables: Path, images: Path, rule: TargetRule, modalities: Sequence[Modality]
) -> tuple[VisitTable, Quarantine]:
    """Return the index visits of all subjects who have one, and the list of what was left out and why.

    As `select_visits`, without its account of the steps.
    """
    selection = select_visits(tables, images, rule, modalities)
    return selection.visits, selection.quarantine


def select_visits(tables: Path, images: Path, rule: TargetRule, modalities: Sequence[Modality]) -> Selection:
    """Select the index visits of all subjects who have one, and count what each step lost.

    Raises DataError where the folders do not hold ADNI's tables and images, where a column of them cannot be read,
    where a modality cannot be found in them, and for a diagnosis that no visit has.
    """
    require_image_modalities(modalities, "ADNI")
    columns = tuple(dict.fromkeys(column for m in modalities for column in kind_of(m).adni_columns(m)))
    clinical, found = read_assessments(tables, columns), find_images(images)
    assessments = clinical.assessments
    require_diagnoses(rule, chain.from_iterable(assessments.values()))
    by_rid, undated = _images_by_rid(found.images, assessments)
    subjects = [
        _subject(rid, assessments.get(rid, ()), by_rid.get(rid, ()))
        for rid in sorted(assessments.keys() | by_rid.keys())
    ]
    return select_index_visits(
        subjects,
        rule,
        modalities,
        without_site=Reason.NO_PTID,
        items=(*clinical.quarantine, *undated),
        notes=(*clinical.notes, *notes_of_images(found, len(undated))),
    )


def _subject(rid: int, assessments: Sequence[Assessment], images: Sequence[FoundImage]) -> Subject:
    """Under the PTID that images or else tables give, whose first digits are the site; without one, no site."""
    names = [i.subject_id for i in images] + [a.subject_id for a in assessments if a.subject_id]
    name = names[0] if names else f"RID {rid}"
    site = name.split("_")[0] if re.fullmatch(PTID, name) else ""
    return Subject(name, site, assessments, images)


def _images_by_rid(
    images: Iterable[FoundImage], assessments: Mapping[int, Sequence[Assessment]]
) -> tuple[dict[int, list[FoundImage]], list[Quarantined]]:
    """Dated images by roster number; subjects of other studies have none, and are passed over. CAPS folders have no
    dates: the clinical visit of the session's month dates them, or, where there is none, that month counted from the
    first visit."""
    by_rid: dict[int, list[FoundImage]] = defaultdict(list)
    items: list[Quarantined] = []
    for image in images:
        if (rid := image.rid) is None:
            continue
        taken = image.taken or _session_date(image.session, assessments.get(rid, ()))
        if taken is None and rid in assessments:
            items.append(Quarantined(image.subject_id, image.modality, str(image.path), Reason.UNDATED_IMAGE))
        by_rid[rid].append(replace(image, taken=taken))
    return dict(by_rid), items


def _session_date(session: str, assessments: Sequence[Assessment]) -> date | None:
    match = re.fullmatch(r"M(\d+)", session)
    if match is None or not assessments:
        return None
    months = int(match[1])
    code = "bl" if months == 0 else f"m{months:02d}"
    same_visit = min((a.taken for a in assessments if a.code == code), default=None)
    return same_visit or min(a.taken for a in assessments) + timedelta(days=round(months * DAYS_A_MONTH))
