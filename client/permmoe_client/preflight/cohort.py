"""The site's visits, as far as they can be read, and every image of them."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from permmoe.config import ModelConfig
from permmoe.data.adni import select_visits
from permmoe.data.image_features import image_features
from permmoe.data.image_file import BrokenVolume
from permmoe.data.likeness import unusual_rows
from permmoe.data.manifest import SPLITS, read_manifest, required_columns, unread_columns
from permmoe.data.preparation import prepared_as
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.visit_scores import score_of_tables
from permmoe.data.visits import Visit, VisitTable
from permmoe.data.volumes import read_volume
from permmoe.errors import DataError
from permmoe_client.preflight.outcome import Attempt
from permmoe_client.site import SiteConfig

Progress = Callable[[int, int], None]
"""Called with the number of images that have been read, and of all images."""


@dataclass(frozen=True)
class Cohort:
    """What a manifest or the folders hold."""

    absent: tuple[str, ...] = ()
    """Paths of the settings that are not there, or cannot be read."""
    other_score: str = ""
    """Why the table does not hold what the study predicts; empty where it does."""
    absent_columns: tuple[str, ...] = ()
    absent_covariates: tuple[str, ...] = ()
    """Columns that the study's harmonisation adjusts images for."""
    unread_columns: tuple[str, ...] = ()
    """Columns of the manifest that nothing reads."""
    repeated_subjects: tuple[str, ...] = ()
    unknown_split_lines: tuple[int, ...] = ()
    table: Attempt[VisitTable] = field(default_factory=Attempt)
    """Every visit that can be used, those without an outcome included, before splits are assigned."""
    left_out: Quarantine = field(default_factory=Quarantine)
    """Rows and files that reading the table left out."""
    broken: Quarantine = field(default_factory=Quarantine)
    """Images that cannot be used."""
    unlike: Quarantine = field(default_factory=Quarantine)
    """Images that can be used, but are unlike the site's others of their modality."""


def read_cohort(
    site: SiteConfig, model: ModelConfig, progress: Progress | None = None, *, images: bool = True
) -> Cohort:
    """Read all that can be read, images only if wanted; what cannot be used is reported and never raised."""
    if trouble := site.outcome.mismatch(model.score):
        return Cohort(other_score=trouble)
    cohort = _from_manifest(site.manifest, site, model) if site.manifest else _from_folders(site, model)
    table = cohort.table.result
    if table is None or not images:
        return cohort
    if site.prepare is not None:
        # What is read of a head as scanned says nothing of its image; data.preparation tries some.
        table = _without_raw_images(table)
    wanted = tuple(m for m in site.modalities if m in model.names) or model.names
    broken, unlike = _looked_at(table, model, wanted, progress)
    return replace(cohort, broken=broken, unlike=unlike)


def _without_raw_images(table: VisitTable) -> VisitTable:
    return VisitTable(
        tuple(replace(v, volumes={n: f for n, f in v.volumes.items() if prepared_as(f) is not None}) for v in table)
    )


def _from_manifest(path: Path, site: SiteConfig, model: ModelConfig) -> Cohort:
    try:
        header, rows = _cells(path)
    except OSError:
        return Cohort(absent=(str(path),))
    except (csv.Error, UnicodeDecodeError) as error:
        return Cohort(table=Attempt(trouble=str(error)))
    # Files with one column are no comma-separated tables; `read_manifest` says so better than a list of columns would.
    needed = required_columns(model.modalities, need_target=True, columns=site.outcome)
    absent = tuple(name for name in needed if name not in header) if len(header) > 1 else ()
    subjects = Counter(row.get("subject_id", "") for _, row in rows)
    repeated = tuple(sorted(subject for subject, n in subjects.items() if n > 1 and subject))
    unknown = tuple(line for line, row in rows if row.get("split", "") not in SPLITS)
    if absent or repeated or unknown:
        return Cohort(absent_columns=absent, repeated_subjects=repeated, unknown_split_lines=unknown)
    try:
        table, left_out = read_manifest(
            path, model.modalities, need_target=False, score=model.score, columns=site.outcome,
            covariates=model.harmonised_by,
        )  # fmt: skip
    except (DataError, OSError) as error:
        return Cohort(table=Attempt(trouble=str(error)))
    unread = unread_columns(header, model.modalities, site.outcome, covariates=model.harmonised_by)
    asked = model.harmonisation.columns if model.harmonisation else ()
    absent = tuple(name for name in asked if name not in header)
    return Cohort(unread_columns=unread, absent_covariates=absent, table=Attempt(table), left_out=left_out)


def _from_folders(site: SiteConfig, model: ModelConfig) -> Cohort:
    folders = site.folders
    assert folders
    absent = tuple(str(folder) for folder in (folders.tables, folders.images) if folder and not folder.is_dir())
    if absent:
        return Cohort(absent=absent)
    try:
        score = score_of_tables(site.outcome, folders.score, model.score)
        found = select_visits(folders.tables, folders.images, folders.target, model.modalities, score)
    except (DataError, OSError) as error:
        return Cohort(table=Attempt(trouble=str(error)))
    return Cohort(table=Attempt(found.visits), left_out=found.quarantine)


def _cells(path: Path) -> tuple[Sequence[str], list[tuple[int, dict[str, str]]]]:
    """Header and (line number, row) pairs, as they are: the manifest's own reader stops at the first mistake."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, dict(zip(header, map(str.strip, row), strict=False))) for row in reader if any(row)]
    return header, rows


def _looked_at(
    table: VisitTable, model: ModelConfig, wanted: Sequence[str], progress: Progress | None
) -> tuple[Quarantine, Quarantine]:
    """The images that cannot be used, and those unlike the others of their modality.

    Every image is read to its end, without the cache: a check by another account must leave nothing behind.
    """
    images = [(v, m) for v in table for m in model.modalities if m.name in wanted and m.name in v.volumes]
    items: list[Quarantined] = []
    seen: dict[str, list[tuple[Visit, Float64[np.ndarray, " feature"]]]] = defaultdict(list)
    for done, (visit, modality) in enumerate(images, start=1):
        path = visit.volumes[modality.name]
        try:
            volume = read_volume(path, modality, model.grid)
            seen[modality.name].append((visit, image_features(volume.numpy())))
        except BrokenVolume as broken:
            items.append(Quarantined(visit.subject_id, modality.name, str(path), broken.reason))
        if progress is not None:
            progress(done, len(images))
    unlike = [
        Quarantined(of[row][0].subject_id, name, str(of[row][0].volumes[name]), Reason.UNLIKE_OTHERS)
        for name, of in seen.items()
        for row in unusual_rows(np.array([features for _, features in of]))
    ]
    return Quarantine(tuple(items)), Quarantine(tuple(unlike))
