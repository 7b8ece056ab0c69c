"""Metrics of an image with which all is well, without computing any, and judged images made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from permmoe.preparation.quality.judged import Judged
from permmoe.preparation.quality.metrics import ImageMetrics
from permmoe.preparation.quality.rules import judge_alone

METRICS = ImageMetrics(
    modality="t1", filled=1.0, mask_overlap=0.96, brain_covered=0.97, mask_distance_mm=4.0, correlation=0.8,
    mutual_information=1.15, structure=0.6, template_fit=0.98, brain_contrast=0.6, disagreement_mm=1.5,
    disagreement_degrees=1.0, white_over_grey=1.3, fluid_over_white=0.4, noise=0.02, symmetry=0.8,
    mask_volume_ml=1450.0, follows_t1=True, agreement=0.9, lead=0.2, smallest_scale=1.05, largest_scale=1.12,
    stretch=1.07, rotation_degrees=8.0, is_mirrored=False,
)  # fmt: skip
PET = replace(
    METRICS, modality="amyloid", mask_volume_ml=None, white_over_grey=1.1, own_t1_information=1.2,
    own_t1_disagreement_mm=1.0, mirrored_gain=-0.05, reference_voxels=2000,
    reference_variation=0.1, reference_uptake=4000.0, cortical_suvr=1.3, motion_mm=1.0,
)  # fmt: skip


def judged(subject: str, folder: Path, metrics: ImageMetrics = METRICS, **changes: Any) -> Judged:
    """An image of session M000, its metrics changed, and its sheet in a folder."""
    changed = replace(metrics, **changes)
    sheet = folder / "sheets" / f"{subject}.png"
    return Judged(subject, "M000", changed.modality, changed, judge_alone(changed), sheet, f"{subject}.nii.gz")
