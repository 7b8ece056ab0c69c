"""Small scans in BIDS form, and a stand-in for the computing, so that a folder is prepared in no time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from permmoe.config import VolumeGrid
from permmoe.data.image_file import BrokenVolume
from permmoe.data.reasons import Reason
from permmoe.data.volumes import grid_affine
from permmoe.preparation.images.image import Image
from permmoe.preparation.images.prepare import LeadingT1, Measured, PreparedImage
from permmoe.preparation.scan import Scan
from permmoe.preparation.settings import PreparationSettings
from tests.support.prepared_heads import AMYLOID, GRID, T1, head, mask

SETTINGS = PreparationSettings(spacing_mm=4.0)


class StandIn:
    """Prepares every scan at once; remembers which, and refuses or fails where it is told to."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str, bool]] = []
        self.refused: set[str] = set()
        self.killed_at = -1

    def __call__(self, scan: Scan, grid: VolumeGrid, region: str, t1: LeadingT1 | None) -> PreparedImage:
        if len(self.done) == self.killed_at:
            raise KeyboardInterrupt
        self.done.append((scan.subject_id, scan.modality, t1 is not None))
        if scan.subject_id in self.refused:
            raise BrokenVolume(Reason.NOT_A_HEAD)
        contrast = T1 if scan.modality == "t1" else AMYLOID
        image, brain = (Image(v.astype(np.float32), grid_affine(GRID)) for v in (head(contrast), mask()))
        pet = (1000.0, 0.1, 500) if region else (None, None, None)
        matrix = np.diag([0.95, 0.95, 0.95, 1.0])
        return PreparedImage(image, brain, matrix, t1 is not None or not region, Measured(0.9, 0.5, 1400.0, 0.0, *pet))


def write_scans(folder: Path, subject: str, names: Sequence[str] = ("anat/{}_T1w", "pet/{}_trc-18FAV45_pet")) -> None:
    for name in names:
        file = folder / f"sub-{subject}" / "ses-a" / f"{name.format(f'sub-{subject}_ses-a')}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        voxels = np.random.default_rng(len(subject)).random((20, 20, 20)).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([8.0, 8.0, 8.0, 1.0])), file)
