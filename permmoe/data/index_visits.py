"""From what a registry holds of each subject to a study's index visits, with an account of what was lost where.

ADNI, OASIS-3, AIBL and NACC each read their own tables into `Subject`s; everything after that is the same for all.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

from permmoe.data.diagnoses import WORDS
from permmoe.data.history import Histories, history_of
from permmoe.data.images import FoundImage, FoundImages
from permmoe.data.kinds import kind_of
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.selection import Choice, Selection
from permmoe.data.target_rule import (
    DAYS_A_MONTH,
    Assessment,
    IndexVisit,
    NumberSource,
    TargetRule,
    choose_index_visit,
    outcome,
)
from permmoe.data.tracer_rule import is_read, mixed_tracers
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import DataError, nearest
from permmoe.modality import Modality

NEVER_DIAGNOSED = "no accepted diagnosis at any visit"
NO_LATER_VISIT = "no visit so long after the first"
STEPS = (
    Reason.TWO_PEOPLE, Reason.NO_CLINICAL_VISIT, NO_LATER_VISIT, NEVER_DIAGNOSED, Reason.NO_DIAGNOSIS_IN_TIME,
    Reason.NO_MODALITY_IN_TIME,
)  # fmt: skip
"""Where a subject may be lost, in the order in which it is asked; then for want of a site."""


@dataclass(frozen=True)
class Subject:
    """What tables and folders hold of one subject."""

    name: str
    """As the manifest calls it."""
    site: str
    """Empty where nothing tells it."""
    assessments: Sequence[Assessment]
    images: Sequence[FoundImage] = ()
    """Dated as far as anything dates them."""
    refused: Reason | None = None
    """Why the subject cannot be used, whatever else is known."""


def select_index_visits(
    subjects: Iterable[Subject],
    rule: TargetRule,
    modalities: Sequence[Modality],
    *,
    without_site: Reason,
    scanned: Collection[str] = (),
    items: Sequence[Quarantined] = (),
    notes: Sequence[str] = (),
) -> Selection:
    """Select each subject's index visit, and count what each step lost. `items` and `notes` come first in the account.

    The visit is chosen by permmoe.data.target_rule; a subject without a scan near any such visit has the earliest one
    with the numbers of a tabular modality. `scanned` are the tabular modalities whose numbers were taken from scans:
    they count as images do. A visit has its outcome where that is known. Subjects who never have an accepted diagnosis
    are not part of the study: they are counted and not itemised. `without_site` is why a subject of no known site is
    left out.
    """
    visits: list[Visit] = []
    lost: dict[Reason | str, int] = dict.fromkeys((*STEPS, without_site), 0)
    left_out = list(items)
    choices: list[Choice] = []
    given_by: dict[str, Counter[NumberSource]] = defaultdict(Counter)
    unread: Counter[str] = Counter()
    for subject in subjects:
        subject = replace(subject, images=_of_read_tracers(subject.images, modalities, unread))
        found = _index_visit(subject, rule, modalities, scanned)
        if isinstance(found, IndexVisit) and subject.site:
            history = history_of(subject.name, subject.assessments, found.assessment, modalities)
            visits.append(_visit_of(subject, found, rule, modalities, history))
            left_out += history.left_out
            for column, source in found.assessment.given_by.items():
                given_by[column][source] += 1
            choices += _choices(subject.name, found)
            continue
        step = without_site if isinstance(found, IndexVisit) else found
        lost[step] += 1
        if isinstance(step, Reason):
            left_out.append(Quarantined(subject.name, "", "", step))
    if unread:
        listed = ", ".join(f"{tracer} {n}" for tracer, n in unread.items())
        notes = [*notes, f"PET images of tracers that the model does not read, left aside: {listed}"]
    notes = [*notes, *mixed_tracers(visits, modalities).values()]
    counts = {"in tables or images": len(visits) + sum(lost.values())}
    counts |= {f"lost: {step}": n for step, n in lost.items() if n}
    return Selection(
        visits=VisitTable(tuple(visits)),
        quarantine=Quarantine(tuple(left_out)),
        steps=counts,
        notes=(*notes, *_choice_notes(choices)),
        choices=tuple(choices),
        given_by=given_by,
    )


def _of_read_tracers(
    images: Sequence[FoundImage], modalities: Sequence[Modality], unread: Counter[str]
) -> list[FoundImage]:
    """The images without PET of a tracer that its modality does not list; `unread` counts those."""
    of_name = {modality.name: modality for modality in modalities}
    read = [i for i in images if i.modality not in of_name or is_read(of_name[i.modality], i.tracer)]
    unread.update(image.tracer for image in images if image not in read)
    return read


def require_diagnoses(rule: TargetRule, assessments: Iterable[Assessment]) -> None:
    """Refuse a diagnosis that is no word of the tables; one that nobody has leads to no visit, with its count."""
    known = {a.diagnosis for a in assessments if a.diagnosis} | set(WORDS.values())
    for name in rule.diagnoses:
        if name not in known:
            raise DataError(f"no visit has the diagnosis {name!r}; {nearest(name, known)}")


def require_image_folder(modalities: Sequence[Modality], images: Path | None) -> None:
    """Refuse an image modality where no folder of images is named."""
    for modality in modalities:
        if kind_of(modality).is_image and images is None:
            raise DataError(
                f"modality {modality.name!r} is an image; name the folder of images (--images, or folders.images)",
                for_log=f"modality {modality.name!r} is an image, and no folder of images is named",
            )


def require_image_modalities(modalities: Sequence[Modality], registry: str) -> None:
    """Refuse an image modality that no folder of the registry is searched for."""
    known = ("t1", "flair", "amyloid", "tau")
    for modality in modalities:
        if kind_of(modality).is_image and modality.name not in known:
            raise DataError(
                f"modality {modality.name!r} cannot be found in {registry}'s folders; {nearest(modality.name, known)}. "
                "For any other image write a manifest"
            )


def date_of_month(session: str, assessments: Sequence[Assessment]) -> date | None:
    """The day of a session that Clinica calls by its month, as `M018`: that of the visit of this month's code, or
    where there is none the month counted from the first visit."""
    match = re.fullmatch(r"M(\d+)", session, re.IGNORECASE)
    if match is None or not assessments:
        return None
    months = int(match[1])
    code = "bl" if months == 0 else f"m{months:02d}"
    same_visit = min((a.taken for a in assessments if a.code == code), default=None)
    return same_visit or min(a.taken for a in assessments) + timedelta(days=round(months * DAYS_A_MONTH))


def notes_of_images(found: FoundImages, n_undated: int) -> list[str]:
    """What was left aside of the images, in sentences that name no subject."""
    notes = []
    if found.other_tracers:
        counts = ", ".join(f"{label} {n}" for label, n in found.other_tracers.items())
        notes.append(f"PET images of other tracers, left aside: {counts}")
    if found.failed:
        notes.append(f"{len(found.failed)} image(s) failed in their preparation, and are left aside")
    if n_undated:
        notes.append(f"{n_undated} image(s) have no date")
    return notes


def _index_visit(
    subject: Subject, rule: TargetRule, modalities: Sequence[Modality], scanned: Collection[str]
) -> IndexVisit | Reason | str:
    """A subject's index visit, or the step that lost the subject."""
    if subject.refused:
        return subject.refused
    if not subject.assessments:
        return Reason.NO_CLINICAL_VISIT
    visits = rule.late_enough(subject.assessments)
    if not visits:
        return NO_LATER_VISIT
    accepted = [assessment for assessment in visits if rule.accepts(assessment)]
    if not accepted:
        return NEVER_DIAGNOSED
    if all(assessment.cdrsb is None for assessment in accepted):
        return Reason.NO_DIAGNOSIS_IN_TIME
    names = [m.name for m in modalities if kind_of(m).is_image]
    numbers = [(assessment, _numbers(assessment, modalities)) for assessment in visits]
    with_scan = [assessment for assessment, has in numbers if any(name in has for name in scanned)]
    by_image = choose_index_visit(visits, subject.images, rule, names) if names else None
    by_table = choose_index_visit(with_scan, (), rule, ())
    if by_image and (by_table is None or by_image.assessment.taken <= by_table.assessment.taken):
        return by_image
    with_numbers = [assessment for assessment, has in numbers if has]
    return by_table or choose_index_visit(with_numbers, (), rule, ()) or Reason.NO_MODALITY_IN_TIME


def _numbers(assessment: Assessment, modalities: Sequence[Modality]) -> dict[str, tuple[float, ...]]:
    """Each tabular modality of which the visit has every column."""
    numbers = {m.name: kind_of(m).adni_numbers(m, assessment.values) for m in modalities}
    return {name: values for name, values in numbers.items() if values is not None}


def _visit_of(
    subject: Subject, index: IndexVisit, rule: TargetRule, modalities: Sequence[Modality], history: Histories
) -> Visit:
    """The visit in the terms of the visit table."""
    start = index.assessment
    assert start.cdrsb is not None
    sessions = [image.session for image in index.images.values()]
    return Visit(
        subject_id=subject.name,
        site=subject.site,
        session=sessions[0] if sessions else start.code,
        baseline_cdrsb=start.cdrsb,
        delta_cdrsb=outcome(subject.assessments, start, rule),
        horizon_months=rule.horizon_months,
        age_years=None if start.age_years is None else round(start.age_years, 2),
        phase=start.phase,
        volumes={name: image.path for name, image in index.images.items()},
        tables=_numbers(start, modalities) | dict(history.tables),
        covariates=start.covariates,
        tracers=_tracers_of_numbers(start, modalities),
        later_changes={
            months: change
            for months in rule.further_horizons_months
            if (change := outcome(subject.assessments, start, rule, months)) is not None
        },
    )


def _tracers_of_numbers(assessment: Assessment, modalities: Sequence[Modality]) -> dict[str, str]:
    """Of each tabular modality with uptake ratios, the tracer that they are of."""
    found: dict[str, str] = {}
    for modality in modalities:
        sources = [assessment.given_by.get(column) for column in kind_of(modality).adni_columns(modality)]
        if tracers := dict.fromkeys(source.tracer for source in sources if source is not None and source.tracer):
            found[modality.name] = " and ".join(tracers)
    return found


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
