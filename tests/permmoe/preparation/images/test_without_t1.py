"""A FLAIR without a T1 is placed by its own brain; the network that finds it is replaced by one that is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import Bool
from scipy.ndimage import binary_dilation

from permmoe.config import VolumeGrid
from permmoe.data.image_file import BrokenVolume
from permmoe.data.reasons import Reason, Remedy
from permmoe.preparation.images import prepare as room
from permmoe.preparation.images.image import Image
from permmoe.preparation.images.prepare import prepare_flair, prepare_t1
from permmoe.preparation.quality.of_prepared import metrics_of
from tests.permmoe.preparation.images.heads import distances_mm, pose, posed, template_brain

GRID = VolumeGrid(shape=(45, 54, 45), spacing_mm=4.0)
SCALP = 2.0
TRUE = pose((14, -10, 16), (25, -18, 20), scale=0.95)


@pytest.fixture(scope="module")
def flair() -> Image:
    """Fluid dark, grey matter brighter than white, and a scalp that is brighter than all, 3 mm."""
    t1 = template_brain()
    contrast = np.interp(t1.voxels, [0, 0.2, 0.5, 0.75, 1], [0, 0.1, 0.8, 0.6, 0.5]).astype(np.float32)
    scan = posed(t1.with_voxels(contrast), TRUE)
    near, far = (binary_dilation(scan.voxels > 0, iterations=n) for n in (2, 5))
    return scan.with_voxels(np.where(far & ~near, SCALP, scan.voxels))


def is_brain(scan: Image) -> Bool[np.ndarray, "x y z"]:
    """What is brighter than air and less bright than the scalp."""
    return np.asarray((scan.voxels > 0.02) & (scan.voxels < 0.9 * SCALP))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    def inside(head: Image) -> Image:
        return head.with_voxels(is_brain(head).astype(np.float32))

    monkeypatch.setattr(room, "brain_mask", inside)


def no_brain(head: Image) -> Image:
    raise BrokenVolume(Reason.NOT_A_HEAD)


@pytest.mark.usefixtures("told")
def test_a_flair_without_a_t1_is_placed_without_its_scalp_and_has_its_own_mask(flair: Image) -> None:
    found = prepare_flair(flair, GRID, None)
    assert distances_mm(found.matrix, TRUE).max() < 2.0
    assert not found.follows_t1 and found.measured.lead > 0.3
    assert found.image.voxels.max() < 0.9 * SCALP
    assert found.measured.mask_ml == pytest.approx(float(is_brain(flair).sum()) * flair.voxel_ml)
    assert metrics_of(found, "flair", GRID).mask_overlap > 0.93


@pytest.mark.usefixtures("told")
def test_the_mask_of_a_flair_without_a_t1_tells_when_it_lies_wrongly(flair: Image) -> None:
    wrong = replace(flair, affine=pose((0, 0, 0), (0, 0, 25)) @ np.linalg.inv(TRUE) @ flair.affine)
    found = prepare_flair(wrong, GRID, None, is_registered=True)
    assert metrics_of(found, "flair", GRID).mask_overlap < 0.8


def test_a_flair_without_brain_and_t1_is_left_out_for_lack_of_a_t1_and_a_t1_for_lack_of_a_brain(
    flair: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "brain_mask", no_brain)
    with pytest.raises(BrokenVolume) as alone:
        prepare_flair(flair, GRID, None)
    assert alone.value.reason is Reason.NO_BRAIN_WITHOUT_T1
    assert alone.value.reason.remedy is Remedy.ADD_T1 and "T1 of the same visit" in Remedy.ADD_T1
    with pytest.raises(BrokenVolume) as t1:
        prepare_t1(flair, GRID)
    assert t1.value.reason is Reason.NOT_A_HEAD
