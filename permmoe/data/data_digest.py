"""One digest of data: of the table of visits and of every image's bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from permmoe.config import VolumeGrid
from permmoe.data.cache import VolumeCache
from permmoe.data.image_file import BrokenVolume
from permmoe.data.visits import VisitTable
from permmoe.modality import Modality


def data_digest(visits: VisitTable, modalities: Sequence[Modality], grid: VolumeGrid, cache: VolumeCache) -> str:
    """SHA-256 over the table of visits and the modalities' images: their bytes, and the grid and scale of reading them.

    No volume is computed. A file is read once: its own digest is kept in the cache by path, size and modification time.
    An image that cannot be opened counts as broken, whatever is in it.
    """
    digest = hashlib.sha256(visits.digest().encode())
    for visit in visits:
        for modality in modalities:
            if modality.name in visit.volumes:
                try:
                    name = cache.name(visit.volumes[modality.name], modality, grid)
                except BrokenVolume:
                    name = "broken"
                digest.update(name.encode())
    return digest.hexdigest()
