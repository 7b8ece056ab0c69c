"""What permmoe.preparation.images leaves of a scan, measured."""

from __future__ import annotations

import numpy as np

from permmoe.config import VolumeGrid
from permmoe.preparation.images.prepare import PreparedImage
from permmoe.preparation.quality.metrics import ImageMetrics, Known, image_metrics


def metrics_of(
    prepared: PreparedImage, modality: str, grid: VolumeGrid, own_t1: PreparedImage | None = None
) -> ImageMetrics:
    """The metrics of a prepared image; `own_t1` is its session's prepared T1, and left out for a T1 itself."""
    noted, is_pet = prepared.measured, prepared.measured.reference is not None
    known = Known(
        affine=np.linalg.inv(prepared.matrix),
        follows_t1=prepared.follows_t1,
        agreement=float(noted.agreement),
        lead=float(noted.lead),
        mask_volume_ml=noted.mask_ml,
        motion_mm=noted.motion_mm if is_pet else None,
        reference_uptake=noted.reference,
        reference_variation=noted.reference_cv,
        reference_voxels=noted.reference_voxels,
    )
    t1 = own_t1.image.voxels if own_t1 is not None and own_t1 is not prepared else None
    return image_metrics(prepared.image.voxels, prepared.mask.voxels > 0.5, modality, grid, known=known, own_t1=t1)
