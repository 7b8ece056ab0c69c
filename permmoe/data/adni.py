"""ADNI as people hold it: its clinical tables and Clinica's image folders become the one visit table.

Each subject (roster number, RID) has at most one visit, chosen by permmoe.data.target_rule.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from itertools import chain
from pathlib import Path

from permmoe.config import Score
from permmoe.data.adni_measurements import Measurements, measured_at, read_measurements, scored_at
from permmoe.data.adni_people import identify
from permmoe.data.adni_sources import origins_of
from permmoe.data.adni_tables import read_assessments
from permmoe.data.history import followed_columns
from permmoe.data.images import FoundImage, FoundImages, find_images
from permmoe.data.index_visits import (
    Subject,
    date_of_month,
    notes_of_images,
    require_diagnoses,
    require_image_folder,
    require_image_modalities,
    select_index_visits,
)
from permmoe.data.kinds import kind_of
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.selection import Selection
from permmoe.data.synthetic import is_synthetic_folder
from permmoe.data.target_rule import Assessment, TargetRule
from permmoe.data.visit_scores import CDR_SB_AT_VISITS, VisitScore
from permmoe.data.visits import VisitTable
from permmoe.errors import DataError
from permmoe.modality import Modality


def adni_visits(
    tables: Path,
    images: Path | None,
    rule: TargetRule,
    modalities: Sequence[Modality],
    covariates: Sequence[str] = (),
) -> tuple[VisitTable, Quarantine]:
    """Return the index visits of all subjects who have one, and the list of what was left out and why.

    As `select_visits`, without its account of the steps.
    """
    selection = select_visits(tables, images, rule, modalities, covariates=covariates)
    return selection.visits, selection.quarantine


def select_visits(
    tables: Path,
    images: Path | None,
    rule: TargetRule,
    modalities: Sequence[Modality],
    score: VisitScore = CDR_SB_AT_VISITS,
    *,
    today: date | None = None,
    covariates: Sequence[str] = (),
) -> Selection:
    """Select the index visits of all subjects who have one, and count what each step lost.

    `images` may be None where no modality is an image. `score` is what the outcome is the change of
    (permmoe.data.visit_scores); the days of visits are CDR's and ADNIMERGE's, whatever the score. Rows dated after
    `today` (None: the day on which this is called) are left out, but of the synthetic cohort, whose subjects are
    followed beyond it. `covariates` are columns that visits carry as far as they have them, and are not chosen by.
    Raises DataError where the folders do not hold ADNI's tables and images, where a column of them cannot be read,
    where a modality cannot be found in them, where nothing holds the score, and for a diagnosis that no visit has.
    """
    require_image_modalities(modalities, "ADNI")
    require_image_folder(modalities, images)
    of_modalities = chain.from_iterable(kind_of(m).adni_columns(m) for m in modalities)
    followed = followed_columns(modalities)
    wanted = {column: origins_of(column) for column in (*of_modalities, *covariates, *followed)}
    wanted |= {score.column: score.origins} if score.column else {}
    last_day = None if is_synthetic_folder(tables) else today or date.today()
    clinical = read_assessments(tables, last_day, need_cdrsb=not score.column)
    measurements = read_measurements(tables, wanted, last_day)
    found = FoundImages((), ()) if images is None else find_images(images)
    _require_score(score, measurements)
    assessments, impossible = _on_the_scale(
        {
            rid: [scored_at(visit, rid, score, measurements, rule) for visit in visits]
            for rid, visits in clinical.assessments.items()
        },
        score.score,
    )
    require_diagnoses(rule, chain.from_iterable(assessments.values()))
    by_rid, undated = _images_by_rid(found.images, assessments)
    names = [(image.rid, image.subject_id) for image in found.images if image.rid is not None]
    people = identify((*clinical.rows, *measurements.rows), names)
    subjects = [
        Subject(
            name=people.name(rid),
            site=people.site(rid),
            assessments=[
                measured_at(visit, rid, measurements, rule, modalities, covariates, followed)
                for visit in assessments.get(rid, ())
            ],
            images=by_rid.get(rid, ()),
            refused=Reason.TWO_PEOPLE if rid in people.ambiguous else None,
        )
        for rid in sorted(assessments.keys() | by_rid.keys())
    ]
    return select_index_visits(
        subjects,
        rule,
        modalities,
        scanned=[m.name for m in modalities if measurements.is_of_scans(kind_of(m).adni_columns(m))],
        without_site=Reason.NO_PTID,
        items=(*clinical.quarantine, *measurements.left_out, *impossible, *undated),
        notes=(*clinical.notes, *measurements.notes, *notes_of_images(found, len(undated))),
    )


def _require_score(score: VisitScore, measurements: Measurements) -> None:
    if score.column and not measurements.origins[score.column]:
        wanted = f"no table gives {score.column}, the outcome"
        raise DataError(f"{wanted}: put its table into the folder of tables, or choose another score", for_log=wanted)


def _on_the_scale(
    assessments: Mapping[int, Sequence[Assessment]], score: Score
) -> tuple[dict[int, list[Assessment]], list[Quarantined]]:
    """The visits without scores that are not on the scale, and an item for each of those."""
    found: dict[int, list[Assessment]] = {}
    items: list[Quarantined] = []
    for rid, visits in assessments.items():
        found[rid] = []
        for visit in visits:
            if visit.cdrsb is not None and not score.holds(visit.cdrsb):
                items.append(Quarantined(f"RID {rid}", "", "", Reason.IMPOSSIBLE_SCORE))
                visit = replace(visit, cdrsb=None)
            found[rid].append(visit)
    return found, items


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
        taken = image.taken or date_of_month(image.session, assessments.get(rid, ()))
        if taken is None and rid in assessments:
            items.append(Quarantined(image.subject_id, image.modality, str(image.path), Reason.UNDATED_IMAGE))
        by_rid[rid].append(replace(image, taken=taken))
    return dict(by_rid), items
