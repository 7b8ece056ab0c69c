"""Images that are unlike a training set's, among the visits of a table: which to leave out and which to warn of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from permmoe.config import VolumeGrid
from permmoe.data.cache import VolumeCache
from permmoe.data.kinds import kind_of
from permmoe.data.likeness import Likeness, Likenesses, Verdict, features_of, fit_likeness, unusual_rows, verdict
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.visits import Visit, VisitTable
from permmoe.data.volumes import BrokenVolume
from permmoe.modality import Modality


@dataclass(frozen=True)
class Compared:
    """Visits after their images were held against a training set's."""

    visits: VisitTable
    """Without the images of another kind."""
    unusual: Mapping[str, tuple[str, ...]]
    """By subject, the modalities whose image is unlike the training's."""
    left_out: Quarantine


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


def usual_images(
    visits: Iterable[Visit], modalities: Sequence[Modality], grid: VolumeGrid, cache: VolumeCache
) -> dict[str, Likeness]:
    """What is usual among the visits' images, by modality, as far as there are enough of them."""
    table = tuple(visits)
    found = {}
    for modality in modalities:
        if kind_of(modality).is_image:
            files = [visit.volumes[modality.name] for visit in table if modality.name in visit.volumes]
            likeness = fit_likeness(features_of(cache.get(file, modality, grid) for file in files))
            if likeness is not None:
                found[modality.name] = likeness
    return found


def unlike_the_rest(
    visits: Iterable[Visit], modalities: Sequence[Modality], grid: VolumeGrid, cache: VolumeCache
) -> dict[str, tuple[Visit, ...]]:
    """By modality of images, the visits whose image is unlike the others of these visits."""
    table = tuple(visits)
    found = {}
    for modality in modalities:
        if kind_of(modality).is_image:
            having = [visit for visit in table if modality.name in visit.volumes]
            rows = unusual_rows(features_of(cache.get(v.volumes[modality.name], modality, grid) for v in having))
            found[modality.name] = tuple(having[row] for row in rows)
    return found


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
