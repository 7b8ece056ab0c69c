"""ADNI as people hold it: its clinical tables and Clinica's image folders become the one visit table.

Each subject (roster number, RID) has at most one visit, chosen by permmoe.data.target_rule.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

from permmoe.data.adni_tables import read_assessments
from permmoe.data.diagnoses import WORDS
from permmoe.data.image_names import PTID
from permmoe.data.images import FoundImage, FoundImages, find_images
from permmoe.data.kinds import kind_of
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.selection import Choice, Selection
from permmoe.data.target_rule import DAYS_A_MONTH, Assessment, IndexVisit, TargetRule, choose_index_visit, outcome
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import DataError, nearest
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

    A visit has its outcome where that is known. Subjects who never have an accepted diagnosis are not part of the
    study: they are counted and not itemised. Raises DataError where the folders do not hold ADNI's tables and images,
    where a column of them cannot be read, where a modality cannot be found in them, and for a diagnosis that no visit
    has.
    """
    _require_known(modalities)
    columns = tuple(dict.fromkeys(column for m in modalities for column in kind_of(m).adni_columns(m)))
    clinical, found = read_assessments(tables, columns), find_images(images)
    assessments = clinical.assessments
    _require_diagnoses(rule, assessments)
    subjects, undated = _images_by_rid(found.images, assessments)
    names = [m.name for m in modalities if kind_of(m).is_image]
    visits: list[Visit] = []
    items = [*clinical.quarantine, *undated]
    choices: list[Choice] = []
    lost = dict.fromkeys(STEPS, 0)
    for rid in sorted(assessments.keys() | subjects.keys()):
        name = _name_of(rid, subjects.get(rid, []), assessments.get(rid, ()))
        index, step = _index_visit(assessments.get(rid, ()), subjects.get(rid, []), rule, names)
        visit = _visit_of(name, index, assessments[rid], rule, modalities) if index is not None else None
        if visit is not None and re.fullmatch(PTID, name) and index is not None:
            visits.append(visit)
            choices += _choices(name, index)
            continue
        step = step or (Reason.NO_PTID if visit is not None else Reason.NO_MODALITY_IN_TIME)
        lost[step] += 1
        if isinstance(step, Reason):
            items.append(Quarantined(name, "", "", step))
    counts = {"in tables or images": len(visits) + sum(lost.values())}
    counts |= {f"lost: {step}": n for step, n in lost.items() if n}
    notes = (*clinical.notes, *_left_aside(found), *_choice_notes(choices), *_undated_note(undated))
    return Selection(VisitTable(tuple(visits)), Quarantine(tuple(items)), counts, notes, tuple(choices))


NEVER_DIAGNOSED = "no accepted diagnosis at any visit"
STEPS = (
    Reason.NO_CLINICAL_VISIT, NEVER_DIAGNOSED, Reason.NO_DIAGNOSIS_IN_TIME, Reason.NO_MODALITY_IN_TIME, Reason.NO_PTID,
)  # fmt: skip
"""Where a subject may be lost, in the order in which it is asked."""


def _index_visit(
    assessments: Sequence[Assessment], images: Sequence[FoundImage], rule: TargetRule, names: Sequence[str]
) -> tuple[IndexVisit | None, Reason | str | None]:
    """A subject's index visit, or the step that lost the subject."""
    if not assessments:
        return None, Reason.NO_CLINICAL_VISIT
    accepted = [assessment for assessment in assessments if rule.accepts(assessment)]
    if not accepted:
        return None, NEVER_DIAGNOSED
    if all(assessment.cdrsb is None for assessment in accepted):
        return None, Reason.NO_DIAGNOSIS_IN_TIME
    return choose_index_visit(assessments, images, rule, names), None


def _choices(subject: str, index: IndexVisit) -> list[Choice]:
    return [
        Choice(subject, name, index.images[name].path, tuple(image.path for image in others))
        for name, others in index.alternatives.items()
    ]


def _choice_notes(choices: Sequence[Choice]) -> list[str]:
    counts = Counter(choice.modality for choice in choices)
    return [
        f"{n} visit(s) have several {name} images of one day: a registered one was taken, then the first by name"
        for name, n in counts.items()
    ]


def _left_aside(found: FoundImages) -> list[str]:
    if not found.other_tracers:
        return []
    counts = ", ".join(f"{label} {n}" for label, n in found.other_tracers.items())
    return [f"PET images of other tracers, left aside: {counts}"]


def _undated_note(undated: Sequence[Quarantined]) -> list[str]:
    return [f"{len(undated)} image(s) have no date"] if undated else []


def _require_diagnoses(rule: TargetRule, assessments: Mapping[int, Sequence[Assessment]]) -> None:
    """Refuse a diagnosis that is no word of the tables; one that nobody has leads to no visit, with its count."""
    known = {a.diagnosis for visits in assessments.values() for a in visits if a.diagnosis} | set(WORDS.values())
    for name in rule.diagnoses:
        if name not in known:
            raise DataError(f"no visit has the diagnosis {name!r}; {nearest(name, known)}")


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
