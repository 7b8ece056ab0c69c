"""Tell synthetic images from a patient's, so that whatever shows figures of them can say so."""

from __future__ import annotations

import json
from pathlib import Path

from permmoe.data.visits import VisitTable

DESCRIPTION_FILE = "dataset_description.json"
"""BIDS's description of a data set; the synthetic cohort's says `"SYNTHETIC": true`."""


def is_synthetic(table: VisitTable, *sources: Path) -> bool:
    """Whether any visit has an image in a folder that is described as synthetic, or one of its sources lies in one.

    `sources` are the manifest, or the folder of tables: visits of tables alone have no image that would tell.
    """
    folders = {folder for visit in table for image in visit.volumes.values() for folder in image.parents}
    return any(_says_synthetic(folder / DESCRIPTION_FILE) for folder in folders) or any(
        map(is_synthetic_folder, sources)
    )


def is_synthetic_folder(folder: Path) -> bool:
    """Whether a folder, or one that it or a file lies in, is described as synthetic."""
    return any(_says_synthetic(above / DESCRIPTION_FILE) for above in (folder, *folder.absolute().parents))


def _says_synthetic(description: Path) -> bool:
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("SYNTHETIC") is True
