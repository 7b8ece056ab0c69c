"""Prepare a folder of scans: find them, prepare what is not finished, judge all, and write what people and models need.

The folder of prepared images is a BIDS-derivatives dataset. Beside the images stand `images.csv` (each image, its day
and its verdict), `quarantine.csv`, `choices.csv`, `qc.html` with `sheets/`, and the reference regions that were used.
All of it names patients: it stays at the site.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from permmoe.data.image_names import bids_label
from permmoe.data.prepared_images import COLUMNS, LIST
from permmoe.data.quarantine import Quarantine, Quarantined, write_csv_atomically
from permmoe.data.reasons import Reason
from permmoe.data.selection import write_choices
from permmoe.data.synthetic import is_synthetic_folder
from permmoe.data.template import TEMPLATE
from permmoe.errors import DataError
from permmoe.preparation.derivatives import Derivative, nifti, sidecar_path, subject_label
from permmoe.preparation.images.regions import LICENCE, ORIGIN, REGIONS, region_mask
from permmoe.preparation.pictures import write_pictures
from permmoe.preparation.prepared_folder import claimed, describe
from permmoe.preparation.progress import Progress, Step, unseen
from permmoe.preparation.quality.judged import Judged, failed
from permmoe.preparation.quality.one_person import with_one_person_each
from permmoe.preparation.quality.rules import Verdict, judge
from permmoe.preparation.scan import Scan
from permmoe.preparation.settings import PreparationSettings
from permmoe.preparation.sources import FoundScans, find_scans
from permmoe.preparation.sources.series_rules import SeriesRules
from permmoe.preparation.subject import SubjectResult, prepare_subject
from permmoe.runtime.files import write_file
from permmoe.runtime.workers import worker_pool

CONVERTED = "converted"
"""Images that were made from DICOM, for the preparation alone."""


@dataclass(frozen=True)
class PreparedFolder:
    """What a preparation left in its folder."""

    images: tuple[tuple[Derivative, Judged], ...]
    """All that were prepared, failed ones included."""
    left_out: Quarantine
    """What was not found fit before, during or after the preparation."""
    made: int
    """Scans that were worked on this time."""
    notes: tuple[str, ...]

    @property
    def usable(self) -> tuple[Derivative, ...]:
        """The images that did not fail."""
        return tuple(derivative for derivative, judged in self.images if judged.verdict is not Verdict.FAILED)


def prepare_folder(
    source: Path,
    out: Path,
    settings: PreparationSettings,
    *,
    rules: SeriesRules | None = None,
    workers: int = 1,
    progress: Progress = unseen,
) -> PreparedFolder:
    """Prepare the scans under `source` into `out`; what is finished there is not made again.

    Raises DataError where there is no scan, where `out` holds another data set or lies inside `source`, and where a
    worker process was killed; TryAgainLater where another process works in `out`; OSError where the disk is full.
    Whatever was finished stays so.
    """
    if out.resolve() != source.resolve() and out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out} lies in {source}, and would be searched for scans; name a folder elsewhere")
    with claimed(out):
        if is_synthetic_folder(source):
            describe(out, is_synthetic=True)
        found = find_scans(source, converted=out / CONVERTED, rules=rules, workers=workers, progress=progress)
        return _prepare(found, out, settings, workers, progress)


def prepare_scans(
    found: FoundScans,
    out: Path,
    settings: PreparationSettings,
    *,
    workers: int = 1,
    progress: Progress = unseen,
) -> PreparedFolder:
    """Prepare scans that were found, and write what stands beside the images. Raises as `prepare_folder`."""
    with claimed(out):
        return _prepare(found, out, settings, workers, progress)


def _prepare(
    found: FoundScans, out: Path, settings: PreparationSettings, workers: int, progress: Progress
) -> PreparedFolder:
    by_subject, doubtful = _by_subject(found.scans)
    results = _prepared(by_subject, out, settings, workers, progress)
    derivatives = [d for result in results for d in result.derivatives]
    metrics = [d.metrics for d in derivatives]
    # In template space every brain is of about the same volume: it is held against others of its kind alone.
    heads = [(d.scan.subject_id, d.scan.is_registered) for d in derivatives]
    judgements = with_one_person_each(heads, metrics, judge(metrics))
    judged = tuple(
        Judged(d.scan.subject_id, d.scan.session, d.scan.modality, d.metrics, judgement, Path(), file=str(d.image))
        for d, judgement in zip(derivatives, judgements, strict=True)
    )
    unseen_scans = found.left_out + doubtful + Quarantine(tuple(i for r in results for i in r.left_out))
    left_out = unseen_scans + failed(judged)
    if any(is_synthetic_folder(folder) for folder in {scan.files[0].parent for scan in found.scans}):
        describe(out, is_synthetic=True)
    images = write_pictures(
        out,
        tuple(zip(derivatives, judged, strict=True)),
        settings.grid,
        is_synthetic=is_synthetic_folder(out),
        without_picture=unseen_scans.counts(),
        workers=workers,
        progress=progress,
    )
    _write_lists(out, images, left_out, found)
    _write_regions(out, {d.prepared.region for d in derivatives if d.prepared.region})
    return PreparedFolder(images, left_out, sum(r.made for r in results), found.notes)


def _by_subject(scans: Iterable[Scan]) -> tuple[dict[str, list[Scan]], Quarantine]:
    """Scans by subject, and those of subjects whose names BIDS cannot tell apart."""
    by_label: defaultdict[str, dict[str, list[Scan]]] = defaultdict(dict)
    for scan in scans:
        by_label[subject_label(scan.subject_id)].setdefault(scan.subject_id, []).append(scan)
    kept: dict[str, list[Scan]] = {}
    items: list[Quarantined] = []
    for subjects in by_label.values():
        if len(subjects) == 1:
            kept |= subjects
        else:
            items += [
                Quarantined(s.subject_id, s.modality, str(s.files[0]), Reason.TWO_SUBJECTS_ONE_LABEL)
                for own in subjects.values()
                for s in own
            ]
    return dict(sorted(kept.items())), Quarantine(tuple(items))


def _prepared(
    by_subject: Mapping[str, Sequence[Scan]],
    out: Path,
    settings: PreparationSettings,
    workers: int,
    progress: Progress,
) -> list[SubjectResult]:
    """Results in the order of subjects, whatever the number of workers."""
    done, n_left_out, total = 0, 0, sum(map(len, by_subject.values()))

    def tell(scans: int, left_out: int) -> None:
        nonlocal done, n_left_out
        done, n_left_out = done + scans, n_left_out + left_out
        if left_out:
            progress(Step.LEFT_OUT, n_left_out, total)
        progress(Step.PREPARED, done, total)

    def tell_of_one(is_left_out: bool) -> None:
        tell(1, int(is_left_out))

    tell(0, 0)
    if workers <= 1 or len(by_subject) <= 1:
        return [prepare_subject(scans, out, settings, tell_of_one) for scans in by_subject.values()]
    results: dict[str, SubjectResult] = {}
    try:
        with worker_pool(min(workers, len(by_subject)), threads=1) as pool:
            waiting = {
                pool.submit(prepare_subject, scans, out, settings): subject for subject, scans in by_subject.items()
            }
            for future in as_completed(waiting):
                subject = waiting[future]
                results[subject] = future.result()
                tell(len(by_subject[subject]), len(results[subject].left_out))
    except BrokenProcessPool:
        raise DataError(
            "a process that prepared images was killed, often for lack of memory (about 1.5 GB each); run the same "
            "again, with fewer workers: it goes on where it stopped"
        ) from None
    return [results[subject] for subject in by_subject]


def _write_lists(
    out: Path, images: Sequence[tuple[Derivative, Judged]], left_out: Quarantine, found: FoundScans
) -> None:
    rows = [
        (
            d.scan.subject_id, d.scan.session, d.scan.modality, d.scan.tracer, d.scan.taken or "",
            d.image.relative_to(out), judged.verdict, "; ".join(judged.reasons),
        )
        for d, judged in images
    ]  # fmt: skip
    write_csv_atomically(out / LIST, COLUMNS, rows)
    left_out.write(out / "quarantine.csv")
    write_choices(out / "choices.csv", found.choices)


def _write_regions(out: Path, names: Iterable[str]) -> None:
    """Reference regions as images, so that people can lay them over a scan, each with its origin and licence."""
    for name in sorted(names):
        file = out / f"tpl-{TEMPLATE}_desc-{bids_label(name)}_mask.nii.gz"
        if not file.exists():
            # The image last: where it is, its words are.
            words = {"Region": name, "Description": REGIONS[name].description, "Origin": ORIGIN, "License": LICENCE}
            write_file(sidecar_path(file), json.dumps(words, indent=1) + "\n", is_durable=False)
            write_file(file, nifti(region_mask(name), np.uint8), is_durable=False)
