"""Images that are unlike a training set's, among the visits of a table: which to leave out and which to warn of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from permmoe.config import VolumeGrid
from permmoe.data.cache import VolumeCache
from permmoe.data.image_file import BrokenVolume
from permmoe.data.kinds import kind_of
from permmoe.data.likeness import (
    LEAST_IMAGES,
    Features,
    Likeness,
    Likenesses,
    Verdict,
    fit_likeness,
    unusual_rows,
    verdict,
)  # fmt: skip
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.visits import Visit, VisitTable
from permmoe.modality import Modality


@dataclass(frozen=True)
class Compared:
    """Visits after their images were held against a training set's."""

    visits: VisitTable
    """Without the images of another kind."""
    unusual: Mapping[str, tuple[str, ...]]
    """By subject, the modalities whose image is unlike the training's."""
    left_out: Quarantine


@dataclass(frozen=True)
class Described:
    """The visits that have a modality, and their images' features, a row each."""

    visits: tuple[Visit, ...]
    features: Features


def compare(
    visits: VisitTable, modalities: Sequence[Modality], grid: VolumeGrid, cache: VolumeCache, known: Likenesses
) -> Compared:
    """Hold every image that can be read, of a modality that is known, against the training's."""
    kept: list[Visit] = []
    unusual: dict[str, tuple[str, ...]] = {}
    items: list[Quarantined] = []
    for visit in visits:
        verdicts = {m.name: _verdict(visit, m, modalities, grid, cache, known) for m in modalities}
        other = [name for name, found in verdicts.items() if found is Verdict.OTHER_KIND]
        unusual[visit.subject_id] = tuple(name for name, found in verdicts.items() if found is Verdict.UNUSUAL)
        items += [Quarantined(visit.subject_id, name, str(visit.volumes[name]), Reason.OTHER_KIND) for name in other]
        kept.append(visit.with_only([m.name for m in modalities if m.name not in other]))
    return Compared(VisitTable(tuple(kept)), unusual, Quarantine(tuple(items)))


def described_images(
    visits: Iterable[Visit], modalities: Sequence[Modality], grid: VolumeGrid, cache: VolumeCache
) -> dict[str, Described]:
    """The features of the visits' images, of modalities with enough of them to tell what is usual.

    Raises BrokenVolume for an image that cannot be read.
    """
    table = tuple(visits)
    found = {}
    for modality in modalities:
        having = tuple(visit for visit in table if modality.name in visit.volumes)
        if kind_of(modality).is_image and len(having) >= LEAST_IMAGES:
            rows = [cache.features(visit.volumes[modality.name], modality, grid) for visit in having]
            found[modality.name] = Described(having, np.stack(rows))
    return found


def usual_images(described: Mapping[str, Described]) -> dict[str, Likeness]:
    """What is usual among the images of each modality, as far as there are enough of them."""
    fitted = {name: fit_likeness(images.features) for name, images in described.items()}
    return {name: likeness for name, likeness in fitted.items() if likeness is not None}


def unlike_the_rest(described: Mapping[str, Described]) -> dict[str, tuple[Visit, ...]]:
    """By modality, the visits whose image is unlike the others."""
    return {
        name: tuple(images.visits[row] for row in unusual_rows(images.features)) for name, images in described.items()
    }


def _verdict(
    visit: Visit, modality: Modality, modalities: Sequence[Modality], grid: VolumeGrid, cache: VolumeCache,
    known: Likenesses,
) -> Verdict:  # fmt: skip
    """USUAL also for what is not there, cannot be read or is of a modality that nothing is known of."""
    if modality.name not in visit.volumes or modality.name not in known:
        return Verdict.USUAL
    try:
        volume = cache.get(visit.volumes[modality.name], modality, grid)
    except BrokenVolume:
        return Verdict.USUAL
    same_unit = [m.name for m in modalities if m.normalisation == modality.normalisation and m is not modality]
    return verdict(volume, known[modality.name], [known[name] for name in same_unit if name in known])
