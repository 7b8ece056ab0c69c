"""Registration: a brain is found wherever it lies, by the metric that its contrast asks for."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import distance_transform_edt

from permmoe.data.image_file import BrokenVolume
from permmoe.preparation.images.image import Image
from permmoe.preparation.images.registration import (
    agreement_at,
    brain_target,
    brain_to_template,
    frame_onto,
    head_target,
    head_to_template,
    moved_mm,
    rigid,
)
from tests.permmoe.preparation.images.heads import distances_mm, pose, posed, template_brain


def test_a_brain_that_is_turned_moved_and_scaled_is_found_to_a_millimetre() -> None:
    true = pose((18, -15, 20), (25, -30, 12), scale=0.94)
    found = brain_to_template(posed(template_brain(), true))
    assert distances_mm(found.matrix, true).max() < 1.0
    assert found.agreement > 0.9 and found.lead > 0.1


def test_equal_brains_give_equal_maps() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # as the preparation does: threads add up in any order
    target, scan = brain_target(template_brain(4.0)), posed(template_brain(4.0), pose((5, 0, -10), (10, 0, 0)), 4.0)
    maps = [rigid(target, scan, scan.centre_of_mass_mm()).matrix for _ in range(2)]
    assert np.array_equal(*maps)


def test_a_scan_of_another_contrast_is_found_by_a_rigid_map() -> None:
    t1 = template_brain()
    flair = t1.with_voxels(np.interp(t1.voxels, [0, 0.2, 0.5, 0.75, 1], [0, 0.1, 0.8, 0.6, 0.5]).astype(np.float32))
    true = pose((-12, 8, 15), (-20, 10, 25))
    scan = posed(flair, true)
    found = rigid(brain_target(t1), scan, scan.centre_of_mass_mm())
    assert distances_mm(found.matrix, true).max() < 1.5
    assert np.allclose(np.linalg.svd(found.matrix[:3, :3], compute_uv=False), 1, atol=1e-6)


def test_a_scan_that_shows_no_tissue_is_found_by_its_skin_where_the_brain_alone_does_not_tell() -> None:
    brain = room_around(template_brain(4.0))
    off_mm = distance_transform_edt(brain.voxels == 0) * brain.spacing_mm[0]
    t1 = brain.with_voxels(np.where((off_mm > 8) & (off_mm < 14), 0.8, brain.voxels).astype(np.float32))
    grain = np.random.default_rng(0).normal(0, 0.02, brain.voxels.shape)
    # As PET of tau in a healthy person: the brain is even, and all around it up to the skin as bright.
    tau = brain.with_voxels(np.where(off_mm < 14, 1 + grain, 0.02).astype(np.float32))
    true = pose((6, -8, 10), (10, 18, -22))
    scan = posed(tau, true, 4.0)
    found = rigid(
        head_target(t1, brain.with_voxels((brain.voxels > 0).astype(np.float32))), scan, scan.centre_of_mass_mm()
    )
    assert distances_mm(found.matrix, true).max() < 3.0
    by_brain = rigid(brain_target(brain), scan, scan.centre_of_mass_mm())
    assert distances_mm(by_brain.matrix, true).max() > 5.0


def test_agreement_at_a_place_is_the_registration_s_own_there_and_falls_a_centimetre_off() -> None:
    brain = room_around(template_brain(4.0))
    target = head_target(brain, brain.with_voxels((brain.voxels > 0).astype(np.float32)))
    scan = posed(brain, pose((4, 2, -6), (5, -3, 8)), 4.0)
    found = rigid(target, scan, scan.centre_of_mass_mm())
    assert agreement_at(target, scan, found.matrix) == pytest.approx(found.agreement, rel=1e-3)
    off = found.matrix.copy()
    off[:3, 3] += 6.0
    assert agreement_at(target, scan, off) < 0.6 * found.agreement
    off[:3, 3] += 5000.0
    assert agreement_at(target, scan, off) == 0.0


def room_around(brain: Image, voxels: int = 6) -> Image:
    """The brain with as many empty voxels on each side."""
    affine = brain.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, voxels)
    return Image(np.pad(brain.voxels, voxels), affine)


def test_a_scan_without_a_t1_is_found_straight_from_the_template() -> None:
    true = pose((8, -6, 10), (12, 5, -8))
    scan = posed(template_brain(), true)
    assert distances_mm(head_to_template(scan, scan.centre_of_mass_mm()).matrix, true).max() < 3.0


def test_how_far_a_head_moved_between_frames_is_measured() -> None:
    brain = template_brain(4.0)
    first, later = posed(brain, pose((0, 0, 0), (0, 0, 0)), 4.0), posed(brain, pose((0, 0, 3), (0, 4, 0)), 4.0)
    moved = moved_mm(frame_onto(first, later), first)
    assert 3.0 < moved < 9.0
    assert moved_mm(frame_onto(first, first), first) < 0.2


def test_an_image_that_shares_no_field_with_the_template_is_refused() -> None:
    scan = template_brain(8.0)
    with pytest.raises(BrokenVolume, match="no map"):
        head_to_template(scan, np.array([5000.0, 0.0, 0.0]))
