"""Registration: a brain is found wherever it lies, by the metric that its contrast asks for."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from permmoe.data.image_file import BrokenVolume
from permmoe.preparation.images.registration import (
    brain_target,
    brain_to_template,
    frame_onto,
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
