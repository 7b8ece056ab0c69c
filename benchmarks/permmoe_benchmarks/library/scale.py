"""How large the compared things are, and where the cohort that they share lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PUBLISHED = {"width": 128, "tokens": 16, "experts": 16, "top_k": 4, "expert_hidden": 256, "heads": 4}
"""Flex-MoE's defaults for what is behind its encoders."""
PATTERNS = ((0, 1), (2, 3), (0, 2), (1, 3), (0, 3), (1, 2))
"""The modalities of one visit after the other: half of all volumes are missing, each modality equally often."""
ROOT = Path(__file__).parents[3]
SHARED = ROOT / "runs" / "benchmark"
"""The folder of the synthetic cohort, which is written once and kept."""


@dataclass(frozen=True)
class Scale:
    """How large the measured things are."""

    grid: tuple[int, int, int]
    """Voxels of the volumes in steps and predictions."""
    spacing_mm: float
    visits: int
    """Visits of a training step; half of their volumes are missing."""
    subjects: int
    """Subjects of the synthetic cohort behind simulation, loader and accuracy."""
    cnn_grid: tuple[int, int, int]
    cnn_spacing_mm: float
    cnn_seconds: float
    """The six-layer CNN's grid and training time in the comparison of accuracies; its last epoch may exceed that."""


SCALES = {
    # It only shows that everything runs.
    "tiny": Scale((24, 27, 24), 8.0, 2, 60, (24, 27, 24), 8.0, 0.5),
    "quick": Scale((32, 36, 32), 6.0, 4, 240, (32, 36, 32), 6.0, 30.0),
    "full": Scale((91, 109, 91), 2.0, 2, 800, (48, 56, 48), 4.0, 1200.0),
}


def settings(scale: str) -> Mapping[str, Any]:
    """All that the figures of a scale depend on, besides versions and machine."""
    return {"scale": asdict(SCALES[scale]), "published": PUBLISHED, "patterns": PATTERNS, "seed": 0, "threads": 1}
