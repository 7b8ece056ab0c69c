"""Pages of predictions as files: one page a patient, so that none holds another's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from permmoe.data.cache import VolumeCache
from permmoe.data.image_names import bids_label
from permmoe.data.outcomes import read_outcomes
from permmoe.data.quarantine import Quarantine
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError
from permmoe.explanation.modalities import MOST_MODALITIES
from permmoe.explanation.page.contents import Subject
from permmoe.explanation.page.page import prediction_page
from permmoe.explanation.reasons import explain
from permmoe.predict import Prediction, TrainedModel
from permmoe.preparation.quality.of_sidecar import judgement_of
from permmoe.runtime.checkpoint_card import read_checked
from permmoe.runtime.files import write_file


def require_report(report: Path, *, is_folder: bool) -> None:
    """Check, before anything is computed, that pages can go there. Raises ConfigurationError.

    One patient has a page, whose name ends in .html; visits of a manifest have a folder of pages.
    """
    if is_folder and (report.suffix.lower() in (".html", ".htm") or report.is_file()):
        raise ConfigurationError(
            f"--report {report}: with --manifest it is a folder, in which each patient gets a page; name a folder"
        )
    if not is_folder and (report.is_dir() or report.suffix.lower() not in (".html", ".htm")):
        raise ConfigurationError(f"--report {report}: one patient's page is a file; name it such as page.html")


def write_reports(
    report: Path, model: TrainedModel, folder: Path, visits: VisitTable, predictions: Sequence[Prediction],
    left_out: Quarantine, cache: VolumeCache, *, is_folder: bool,
) -> tuple[Path, ...]:  # fmt: skip
    """Write the page of every prediction, readable by its owner only; returns the files.

    `folder`: the model's; `visits`: as they were predicted from, with prepared images; `cache`: the prediction's.
    """
    _, card = read_checked(folder)
    outcomes = read_outcomes(card, f"the model card in {folder}")
    by_subject: Mapping[str, Visit] = {visit.subject_id: visit for visit in visits}
    taken: set[str] = set()
    pages = []
    for prediction in predictions:
        visit = by_subject[prediction.subject_id]
        has_reasons = len(prediction.used) <= MOST_MODALITIES
        subject = Subject(
            model=model, card=card, outcomes=outcomes, visit=visit, prediction=prediction, cache=cache,
            reasons=explain(model, visit, prediction, cache, outcomes) if has_reasons else None,
            judgements={n: judgement_of(visit.volumes[n]) for n in prediction.used if n in visit.volumes},
            left_out=tuple(item for item in left_out if item.subject_id == prediction.subject_id and item.modality),
        )  # fmt: skip
        page = report / f"{_free_name(prediction.subject_id, taken)}.html" if is_folder else report
        write_file(page, prediction_page(subject, date.today()), is_durable=False)
        pages.append(page)
    return tuple(pages)


def _free_name(subject_id: str, taken: set[str]) -> str:
    """A file's name for a subject: its letters and digits, and a number where another has the same."""
    label = bids_label(subject_id) or "patient"
    name, number = label, 1
    while name.casefold() in taken:
        number += 1
        name = f"{label}-{number}"
    taken.add(name.casefold())
    return name
