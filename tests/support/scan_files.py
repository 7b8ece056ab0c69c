"""Small images of heads, as files, where a test needs that they can be opened."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np


def write_image(
    path: Path,
    *,
    shape: tuple[int, ...] = (10, 11, 12),
    voxel_mm: float = 2.0,
    sidecar: dict[str, object] | None = None,
) -> Path:
    """Write an image whose format follows from its name, and its JSON sidecar where there is one; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    affine = np.diag([voxel_mm] * 3 + [1.0])
    kind = nib.MGHImage if path.suffix in (".mgz", ".mgh") else nib.Nifti1Image
    if path.suffix == ".img":
        kind = nib.Nifti1Pair
    nib.save(kind(voxels, affine), path)
    if sidecar is not None:
        name = path.name.removesuffix(".gz").removesuffix(".nii") + ".json"
        (path.parent / name).write_text(json.dumps(sidecar))
    return path
