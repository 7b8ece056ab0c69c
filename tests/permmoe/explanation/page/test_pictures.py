"""Pictures are seen as radiologists see them, and their colours and numbers are those of the values."""

from __future__ import annotations

import io
from base64 import b64decode
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from permmoe.config import VolumeGrid
from permmoe.data.cache import VolumeCache
from permmoe.data.volumes import TEMPLATE_BRAIN_CENTRE_MM, grid_affine
from permmoe.explanation.atlas import DISPLAY, OUTSIDE, REGIONS, display_t1
from permmoe.explanation.page.pictures import Strip, grey, on_display_grid, strip
from permmoe.modality import Modality

NOTHING = dict.fromkeys(REGIONS, 0.0)
LEFT, RIGHT = "left lateral frontal", "right lateral frontal"


def head(grid: VolumeGrid) -> np.ndarray:
    """An egg where a brain lies, brighter to the left and to the front."""
    axes = [o + grid.spacing_mm * np.arange(n) for o, n in zip(grid_affine(grid)[:3, 3], grid.shape, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    inside = (x / 65) ** 2 + ((y + 20) / 80) ** 2 + ((z - 8) / 60) ** 2 < 1
    return (inside * (2 - x / 100 + y / 200 + 0.2 * np.sin(z / 5))).astype(np.float32)


def pixels(made: Strip) -> np.ndarray:
    picture = np.asarray(Image.open(io.BytesIO(b64decode(made.source.split(",")[1]))))
    assert picture.shape == (made.height, made.width, 3)
    return picture.astype(int)


def axial(made: Strip) -> np.ndarray:
    """The fifth slice, axial."""
    middle = next(x for x, caption in made.captions if caption == "axial +8 mm")
    return pixels(made)[:, int(middle) - 75 : int(middle) + 75]


def test_the_patients_left_is_on_the_right_and_the_front_above() -> None:
    volume = np.zeros(DISPLAY.shape, np.float32)
    volume[:40, 70:] = 1  # left and in front
    rows, columns = np.argwhere(axial(strip(volume, NOTHING, 0.0, ()))[..., 0] > 128).mean(0)
    height, width = axial(strip(volume, NOTHING, 0.0, ())).shape[:2]
    assert columns > width / 2 and rows < height / 2


def test_without_values_a_picture_is_grey() -> None:
    found = pixels(strip(display_t1(), NOTHING, 0.0, ()))
    assert (found[..., 0] == found[..., 1]).all() and (found[..., 1] == found[..., 2]).all() and found.max() > 100


def test_what_raises_is_orange_and_what_lowers_is_blue() -> None:
    found = axial(strip(display_t1(), {**NOTHING, LEFT: 0.4, RIGHT: -0.3}, 0.4, ()))
    warmth = found[..., 0] - found[..., 2]
    half = found.shape[1] // 2
    assert warmth[:, half:].max() > 60 and warmth[:, half:].min() >= -20
    assert warmth[:, :half].min() < -60 and warmth[:, :half].max() <= 20


def test_small_values_and_what_lies_outside_are_not_tinted() -> None:
    values = {**NOTHING, LEFT: 0.01, OUTSIDE: 5.0}
    assert (pixels(strip(display_t1(), values, 1.0, (LEFT,))) == pixels(strip(display_t1(), NOTHING, 0.0, ()))).all()
    assert not strip(display_t1(), values, 1.0, (LEFT,)).marks


def test_a_number_stands_on_its_region() -> None:
    made = strip(display_t1(), {**NOTHING, LEFT: 0.4, RIGHT: -0.3}, 0.4, (RIGHT, LEFT))
    assert {mark.number for mark in made.marks} == {1, 2}
    found = pixels(made)
    for mark in made.marks:
        red, _, blue = found[int(mark.y), int(mark.x)]
        assert (red > blue) == (mark.number == 2)


def test_grey_keeps_the_background_black_and_uptake_from_zero() -> None:
    volume = np.zeros(DISPLAY.shape, np.float32)
    volume[20:40] = np.linspace(1, 2, 20, dtype=np.float32)[:, None, None]
    scan, uptake = grey(volume, is_uptake=False), grey(volume, is_uptake=True)
    assert scan[0].max() == uptake[0].max() == 0 and scan.max() == uptake.max() == 1
    assert scan[20].max() < 0.05 and uptake[20].min() > 0.4


@pytest.mark.parametrize("spacing", [1.5, 4.0])
def test_a_scan_in_template_space_is_drawn_from_its_file_where_it_lies(spacing: float, tmp_path: Path) -> None:
    grid = VolumeGrid(shape=tuple(round(n * 4 / spacing) for n in (48, 56, 48)), spacing_mm=spacing)
    nib.save(nib.Nifti1Image(head(grid), grid_affine(grid)), tmp_path / "ada_space-MNI_t1.nii.gz")
    found = on_display_grid(
        tmp_path / "ada_space-MNI_t1.nii.gz", Modality(name="t1"), VolumeGrid(), VolumeCache(tmp_path / "cache")
    )
    assert np.corrcoef(found.ravel(), head(DISPLAY).ravel())[0, 1] > 0.95


def test_a_scan_in_another_space_is_drawn_as_the_model_saw_it(tmp_path: Path) -> None:
    affine = grid_affine(DISPLAY)
    affine[:3, 3] += (60, -40, 90)  # where the head lay in the magnet
    nib.save(nib.Nifti1Image(head(DISPLAY), affine), tmp_path / "t1.nii.gz")
    found = on_display_grid(tmp_path / "t1.nii.gz", Modality(name="t1"), VolumeGrid(), VolumeCache(tmp_path / "cache"))
    shown = np.argwhere(found > 0).mean(0) * DISPLAY.spacing_mm + grid_affine(DISPLAY)[:3, 3]
    assert np.abs(shown - TEMPLATE_BRAIN_CENTRE_MM).max() < 15
