"""Volumes: a 3-D image file for each visit, preprocessed through the cache."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float64
from torch import Tensor

from permmoe.config import VolumeGrid
from permmoe.data.cache import VolumeCache
from permmoe.data.image_file import BrokenVolume
from permmoe.data.kinds.kind import Reading, RowPlace
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.rows import FileRows, Rows, Stem, rows_in_memory
from permmoe.data.visits import Visit
from permmoe.errors import DataError
from permmoe.modality import Modality


@dataclass(frozen=True)
class VolumeSource:
    """The cache entries of one modality by subject."""

    entries: Mapping[str, Path]
    stem: Stem | None

    def __contains__(self, subject_id: object) -> bool:
        return subject_id in self.entries

    def n_bytes(self) -> int:
        """The memory that all volumes would take: as many times that of the first as there are."""
        files = tuple(self.entries.values())
        return len(files) * rows_in_memory(files[:1], self.stem).rows.nbytes if files else 0

    def rows(self, subjects: Sequence[str], *, in_memory: bool) -> Rows:
        """The subjects' volumes, or what the stem makes of them."""
        files = tuple(self.entries[subject] for subject in subjects)
        return rows_in_memory(files, self.stem) if in_memory else FileRows(files, self.stem)


@dataclass(frozen=True)
class VolumeKind:
    """A column of the manifest that is named like the modality and holds the image's path."""

    is_image: bool = True
    is_of_earlier_visits: bool = False

    def columns(self, modality: Modality) -> tuple[str, ...]:
        """The one column of its name."""
        return (modality.name,)

    def read_cells(self, modality: Modality, row: Mapping[str, str], place: RowPlace) -> Reading:
        """The image's path. Raises DataError for a relative path that leaves the manifest's folder."""
        if not row[modality.name]:
            return Reading()
        file = _image_path(place, modality.name, row[modality.name])
        return Reading(file=file) if file.is_file() else Reading(left_out=Reason.FILE_NOT_FOUND, culprit=str(file))

    def written_cells(self, modality: Modality, visit: Visit, folder: Path) -> dict[str, object]:
        """The image's path, relative where it lies under the manifest's folder."""
        if modality.name not in visit.volumes:
            return {modality.name: ""}
        image = absolute(visit.volumes[modality.name])
        return {modality.name: (image.relative_to(folder) if image.is_relative_to(folder) else image).as_posix()}

    def adni_columns(self, modality: Modality) -> tuple[str, ...]:
        """None: images are found in folders."""
        return ()

    def adni_numbers(self, modality: Modality, values: Mapping[str, float]) -> tuple[float, ...] | None:
        """None: a volume is not made of numbers of a table."""
        return None

    def load(
        self, modality: Modality, visits: Iterable[Visit], grid: VolumeGrid, cache: VolumeCache, stem: Stem | None
    ) -> tuple[VolumeSource, list[Quarantined]]:
        """The cache entry of every image, made where need be, and the broken images."""
        entries: dict[str, Path] = {}
        items: list[Quarantined] = []
        for visit in visits:
            if modality.name in visit.volumes:
                path = visit.volumes[modality.name]
                try:
                    entries[visit.subject_id] = cache.entry(path, modality, grid)
                except BrokenVolume as broken:
                    items.append(Quarantined(visit.subject_id, modality.name, str(path), broken.reason))
        return VolumeSource(entries, stem), items

    def scaled(self, modality: Modality, values: Float64[Tensor, "visit ..."]) -> Modality:
        """The modality as it is: every volume is normalised by itself."""
        return modality

    def is_scale_declared(self, modality: Modality) -> bool:
        """True: every volume is normalised by itself."""
        return True

    def in_words(self, modalities: Sequence[Modality]) -> str:
        """Which images are read."""
        names = ", ".join(" of ".join(filter(None, (m.name, " or ".join(m.tracers)))) for m in modalities)
        return f"Images of these kinds, as far as the visits have them: {names}."


def absolute(path: Path) -> Path:
    """The path without `..`, and without following links: an image keeps the name that its owner gave it."""
    return Path(os.path.normpath(path.absolute()))


def _image_path(place: RowPlace, column: str, text: str) -> Path:
    # "A relative path starts at the manifest's folder and may not leave it with `..`" (permmoe.data.manifest). The rule
    # is about the text and not about links: data sets kept by git-annex are folders of links to elsewhere.
    if not Path(text).is_absolute() and Path(os.path.normpath(text)).parts[0] == os.pardir:
        raise DataError(
            f"{place.manifest}, line {place.line}, column {column!r}: the path leaves the manifest's folder; "
            "write an absolute path or move the manifest",
            for_log=f"line {place.line} of the manifest names an image outside of the manifest's folder",
        )
    return Path(os.path.normpath(absolute(place.manifest.parent) / text))
