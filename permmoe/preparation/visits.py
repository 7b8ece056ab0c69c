"""Prepare the images that visits name where nothing says that they are: for one patient, or for a site's table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from permmoe.data.image_file import BrokenVolume
from permmoe.data.kinds import kind_of
from permmoe.data.preparation import prepared_as
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError
from permmoe.modality import Modality
from permmoe.preparation.folder import prepare_scans
from permmoe.preparation.progress import Progress, Step, counted, unseen
from permmoe.preparation.quality.rules import Verdict
from permmoe.preparation.scan import MODALITIES, PET, Scan
from permmoe.preparation.settings import GRIDS, METHOD, PreparationSettings
from permmoe.preparation.sources import FoundScans, scan_of_file


@dataclass(frozen=True)
class PreparedVisits:
    """Visits whose raw images were prepared."""

    visits: VisitTable
    left_out: Quarantine
    """Images that could not be prepared, or whose preparation failed."""
    to_look_at: Mapping[tuple[str, str], tuple[str, ...]]
    """By subject and modality, what is odd about a prepared image that is used all the same, in sentences."""


def prepare_visits(
    visits: VisitTable,
    modalities: Sequence[Modality],
    out: Path,
    *,
    workers: int = 1,
    progress: Progress = unseen,
) -> PreparedVisits:
    """The visits with their raw images prepared into `out`, as the modalities declare or else as usual.

    Images whose preparation is known stay as they are, and so do those of a modality that is prepared by another
    program. Raises as permmoe.preparation.folder.prepare_folder, and ConfigurationError where the modalities declare a
    spacing that no preparation here gives, or several.
    """
    wanted = [m for m in modalities if kind_of(m).is_image and _is_ours(m)]
    scans: list[Scan] = []
    items: list[Quarantined] = []
    raw = list(_raw(visits, wanted))
    for visit, modality in counted(raw, Step.IMAGES_OPENED, progress):
        file = visit.volumes[modality.name]
        try:
            scans.append(scan_of_file(modality.name, file, subject_id=visit.subject_id, session=visit.session or "1"))
        except BrokenVolume as broken:
            items.append(Quarantined(visit.subject_id, modality.name, str(file), broken.reason))
    folder = prepare_scans(FoundScans(tuple(scans)), out, _settings(wanted), workers=workers, progress=progress)
    made = {(d.scan.subject_id, d.scan.modality): d.image for d in folder.usable}
    look = {(j.subject, j.modality): j.reasons for _, j in folder.images if j.verdict is Verdict.LOOK}
    of_raw = {(visit.subject_id, modality.name) for visit, modality in raw}
    prepared = VisitTable(tuple(_with_prepared(visit, made, of_raw) for visit in visits))
    return PreparedVisits(prepared, Quarantine(tuple(items)) + folder.left_out, look)


def _raw(visits: VisitTable, modalities: Sequence[Modality]) -> Iterator[tuple[Visit, Modality]]:
    """Each image of which nothing says that it is prepared."""
    for visit in visits:
        for modality in modalities:
            if modality.name in visit.volumes and prepared_as(visit.volumes[modality.name]) is None:
                yield visit, modality


def _is_ours(modality: Modality) -> bool:
    is_known = modality.name in MODALITIES
    return is_known and (modality.prepared is None or modality.prepared.by == METHOD)


def _settings(modalities: Sequence[Modality]) -> PreparationSettings:
    """Settings under which images become as the modalities declare, and as usual where they declare nothing."""
    declared = {m.name: m.prepared for m in modalities if m.prepared is not None}
    regions = {name: prepared.region for name, prepared in declared.items() if name in PET}
    spacings = sorted({p.spacing_mm for p in declared.values() if p.spacing_mm is not None})
    if len(spacings) > 1 or not GRIDS.keys() >= set(spacings):
        raise ConfigurationError(
            f"the model reads images with voxels of {_listed(spacings)} mm, but raw ones are prepared to one spacing, "
            f"out of {_listed(GRIDS)} mm: prepare them by yourself, and name the prepared files"
        )
    return PreparationSettings(regions=regions, **({"spacing_mm": spacings[0]} if spacings else {}))


def _listed(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _with_prepared(visit: Visit, made: Mapping[tuple[str, str], Path], raw: set[tuple[str, str]]) -> Visit:
    """The visit with prepared images in place of raw ones; without those that could not be prepared."""
    volumes = {
        name: made.get((visit.subject_id, name), file)
        for name, file in visit.volumes.items()
        if (visit.subject_id, name) not in raw or (visit.subject_id, name) in made
    }
    return replace(visit, volumes=volumes)
