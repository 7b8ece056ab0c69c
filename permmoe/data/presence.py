"""Whether a modality's images are there: a few that are missing are left out, all of them are a mount that is away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from permmoe.data.quarantine import Quarantine
from permmoe.data.reasons import Remedy
from permmoe.data.visits import VisitTable
from permmoe.errors import DataError

LEAST_IMAGES = 2
"""One image that is not there says nothing of a mount."""


def absent_modalities(visits: VisitTable, left_out: Quarantine) -> dict[str, int]:
    """How many images of a modality are named, where none of them is there; `visits` hold those that are."""
    there = {name for visit in visits for name in visit.volumes}
    absent = Counter(i.modality for i in left_out if i.modality and i.reason.remedy is Remedy.MOUNT)
    return {name: n for name, n in absent.items() if n >= LEAST_IMAGES and name not in there}


def require_images(visits: VisitTable, left_out: Quarantine, wanted: Collection[str]) -> None:
    """Raise DataError where all images of a wanted modality are away: training would go on without it."""
    if absent := {name: n for name, n in absent_modalities(visits, left_out).items() if name in wanted}:
        counts = ", ".join(f"none of {n} images of {name}" for name, n in absent.items())
        sentence = f"{counts} can be opened; {Remedy.MOUNT}, or leave the modality out"
        raise DataError(sentence, for_log=sentence)
