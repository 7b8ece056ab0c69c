"""Which images are described at all: only where there are enough to tell what is usual."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float64

from permmoe.config import VolumeGrid
from permmoe.data.cache import VolumeCache
from permmoe.data.image_features import FEATURES
from permmoe.data.likeness import LEAST_IMAGES
from permmoe.data.unlike import described_images
from permmoe.data.visits import Visit
from permmoe.modality import Modality

MODALITIES = (Modality(name="t1"), Modality(name="flair"), Modality(name="gene", kind="tabular", columns=("a",)))


class Opened(VolumeCache):
    """It remembers which images were asked for, and holds none."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.files: list[Path] = []

    def features(self, path: Path, modality: Modality, grid: VolumeGrid) -> Float64[np.ndarray, " feature"]:
        self.files.append(path)
        return np.full(len(FEATURES), float(path.stem))


def visits(n: int, n_flair: int) -> list[Visit]:
    """The first `n_flair` of them have a FLAIR, too; all have a gene's value."""
    return [
        Visit(
            str(i), "north", "bl", 1.0, 0.5, 24.0,
            volumes={name: Path(name) / f"{i}.nii" for name in ("t1", "flair")[: 1 + (i < n_flair)]},
            tables={"gene": (1.0,)},
        )
        for i in range(n)
    ]  # fmt: skip


def test_a_modality_with_fewer_than_thirty_images_is_not_described_and_none_of_them_is_opened(tmp_path: Path) -> None:
    assert LEAST_IMAGES == 30
    cache = Opened(tmp_path)
    found = described_images(visits(31, 29), MODALITIES, VolumeGrid(), cache)
    assert set(found) == {"t1"} and {path.parent.name for path in cache.files} == {"t1"}
    assert [visit.subject_id for visit in found["t1"].visits] == [str(i) for i in range(31)]
    assert found["t1"].features[:, 0].tolist() == list(range(31))
    assert not described_images(visits(29, 29), MODALITIES, VolumeGrid(), cache)


def test_thirty_images_are_enough(tmp_path: Path) -> None:
    found = described_images(visits(40, 30), MODALITIES, VolumeGrid(), Opened(tmp_path))
    assert {name: len(images.visits) for name, images in found.items()} == {"t1": 40, "flair": 30}
