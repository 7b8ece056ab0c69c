"""Invented patients with small images, some of whom have no outcome; their tables as a hospital has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from permmoe.config import EncoderConfig, ModelConfig, VolumeGrid
from permmoe.data.manifest import write_manifest
from permmoe.data.visits import Visit, VisitTable
from permmoe.data.volumes import grid_affine
from permmoe.modality import Modality

GRID = VolumeGrid(shape=(5, 7, 11), spacing_mm=16.0)
MODEL = ModelConfig(
    modalities=(
        Modality(name="t1"),
        Modality(name="tau", normalisation="suvr"),
        Modality(name="clinical", kind="tabular", columns=("mmse",), means=(27.0,), deviations=(2.0,)),
    ),
    grid=GRID, encoder=EncoderConfig(cells=(5, 7, 3), tabular_width=13),
    tokens=2, width=10, heads=2, experts=5, top_k=2, expert_hidden=7, head_hidden=11,
)  # fmt: skip


def write_patients(
    folder: Path, name: str, *, visits: int = 23, unlabelled: int = 0, has: Sequence[str] = ("t1", "tau", "clinical")
) -> Path:
    """A manifest of so many patients with an outcome and so many without; every third lacks all but the first of
    `has`. The images lie beside it; those of patients with an outcome do not depend on how many have none."""
    found = []
    for i in range(visits + unlabelled):
        rng = np.random.default_rng([*name.encode(), i])
        own = has if i % 3 else has[:1]
        volumes = {}
        for modality in own:
            if modality != "clinical":
                volumes[modality] = folder / f"{name}-{i}_{modality}.nii"
                voxels = rng.uniform(0.5, 2.0, GRID.shape).astype(np.float32)
                nib.save(nib.Nifti1Image(voxels, grid_affine(GRID)), volumes[modality])
        found.append(
            Visit(
                subject_id=f"{name}-{i}",
                site=name,
                session="bl",
                baseline_cdrsb=round(rng.uniform(0.5, 4), 2),
                delta_cdrsb=round(rng.uniform(0, 3), 2) if i < visits else None,
                horizon_months=24.0,
                volumes=volumes,
                tables={"clinical": (round(rng.uniform(20, 30), 1),)} if "clinical" in own else {},
            )
        )
    path = folder / f"{name}.csv"
    write_manifest(VisitTable(tuple(found)), path, MODEL.modalities)
    return path
