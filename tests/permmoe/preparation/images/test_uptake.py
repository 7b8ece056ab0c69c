"""PET: known uptake comes out as known ratios, whatever the unit, the pose and the number of frames."""

from __future__ import annotations

import numpy as np
import pytest

from permmoe.config import VolumeGrid
from permmoe.data.image_file import BrokenVolume
from permmoe.data.template import read_template
from permmoe.errors import ConfigurationError
from permmoe.preparation.images.image import Image, on_grid, template_image
from permmoe.preparation.images.regions import REGIONS, region_mask
from permmoe.preparation.images.uptake import averaged, uptake_ratios
from tests.permmoe.preparation.images.heads import pose, posed

GRID = VolumeGrid(shape=(45, 54, 45), spacing_mm=4.0)


def phantom(cortical: float, unit: float) -> Image:
    """Uptake of 1 below the tentorium and of `cortical` above, times a unit, on the template."""
    brain = template_image((read_template("t1") > 0).astype(np.float32))
    heights = np.arange(189) - 72.0
    return brain.with_voxels(brain.voxels * np.where(heights < -15, 1, cortical).astype(np.float32) * np.float32(unit))


@pytest.mark.parametrize("region", [name for name in REGIONS if name != "pons"])
@pytest.mark.parametrize("unit", [1.0, 7315.0])
def test_known_uptake_comes_out_as_ratios_in_any_unit(region: str, unit: float) -> None:
    ratios = uptake_ratios(on_grid(phantom(1.8, unit), GRID, np.eye(4)), GRID, region)
    assert abs(float(ratios.ratios.voxels[22, 27, 28]) / 1.8 - 1) < 0.03
    assert ratios.reference_voxels >= 20 and abs(ratios.reference / unit - 1) < 0.03


def test_frames_that_moved_are_put_onto_the_first_and_weighted_by_their_time() -> None:
    still = phantom(1.5, 100.0)
    first = posed(still, np.eye(4), 4.0)
    moved = posed(still.with_voxels(still.voxels * 2), pose((0, 0, 2), (0, 3, 0)), 4.0)
    whole = averaged([first, moved], [300.0, 600.0])
    assert 2.0 < whole.motion_mm < 8.0
    inside = first.voxels > 140
    assert abs(float(whole.image.voxels[inside].mean() / first.voxels[inside].mean()) - 5 / 3) < 0.05


def test_a_single_frame_is_itself() -> None:
    image = phantom(1.2, 1.0)
    whole = averaged([image], [1200.0])
    assert whole.motion_mm == 0 and np.allclose(whole.image.voxels, image.voxels)


def test_a_scan_that_misses_the_reference_region_is_refused() -> None:
    image = on_grid(phantom(1.5, 1.0), GRID, np.eye(4))
    heights = image.affine[2, 3] + 4 * np.arange(GRID.shape[2])
    with pytest.raises(BrokenVolume, match="reference region"):
        uptake_ratios(image.with_voxels(image.voxels * (heights > -20)), GRID, "whole_cerebellum")


def test_regions_lie_in_the_brain_below_the_tentorium_and_the_grey_ones_are_nested() -> None:
    brain = read_template("t1") > 0
    masks = {name: region_mask(name).voxels > 0 for name in REGIONS}
    assert all(mask.any() and not (mask & ~brain).any() for mask in masks.values())
    assert not (masks["inferior_cerebellar_grey"] & ~masks["cerebellar_grey"]).any()
    assert not (masks["cerebellar_grey"] & masks["pons"]).any()
    assert 20 < masks["whole_cerebellum"].sum() / 1000 < 120
    left, right = (masks["whole_cerebellum"][:98], masks["whole_cerebellum"][99:][::-1])
    assert abs(left.sum() / right.sum() - 1) < 0.1


def test_an_unknown_region_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="whole_cerebellum"):
        region_mask("whole_cerebelum")
