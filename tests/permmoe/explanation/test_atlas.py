"""Every voxel has a name, the names are where anatomists have them, and a cell is divided without rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from permmoe.config import VolumeGrid
from permmoe.data.volumes import grid_affine
from permmoe.explanation.atlas import DISPLAY, OUTSIDE, REGIONS, cell_shares, labels

CENTRES = {
    "right medial temporal lobe": (29, -20, -10),
    "left medial temporal lobe": (-23, -1, -17),
    "right sensorimotor": (41, -8, 52),
    "left precuneus and posterior cingulate": (-7, -56, 48),
    "right basal ganglia and thalamus": (13, -18, 8),
    "left occipital": (-7, -79, 6),
    "right lateral frontal": (38, 33, 34),
    "left cerebellum": (-25, -60, -40),
    "brainstem": (0, -26, -32),
    "left lateral ventricle": (-16, -32, 18),
    "right deep white matter": (26, -20, 36),
    OUTSIDE: (0, 0, 95),
}
"""Points that an anatomist would name so, MNI mm."""


@pytest.mark.parametrize(("name", "point"), CENTRES.items())
def test_a_known_point_has_its_name(name: str, point: tuple[int, int, int]) -> None:
    affine = grid_affine(DISPLAY)
    place = tuple(np.rint((np.array(point) - affine[:3, 3]) / DISPLAY.spacing_mm).astype(int))
    assert REGIONS[labels(DISPLAY)[place]] == name


def test_left_and_right_mirror_each_other() -> None:
    found = labels(DISPLAY)
    for place, name in enumerate(REGIONS):
        if name.startswith("left "):
            other = REGIONS.index(name.replace("left ", "right "))
            assert np.array_equal(found == place, (found == other)[::-1]) and (found == place).sum() > 500


@pytest.mark.parametrize("cells", [(12, 14, 12), (5, 6, 5), (7, 11, 3)])
def test_the_regions_divide_every_cell_without_rest(cells: tuple[int, int, int]) -> None:
    shares = cell_shares(VolumeGrid(), cells)
    assert shares.shape == (len(REGIONS), *cells)
    torch.testing.assert_close(shares.sum(0), torch.ones(cells))
    assert shares.min() >= 0
