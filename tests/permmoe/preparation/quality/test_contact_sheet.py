"""A sheet shows each image with outlines, its verdict and its reasons, the patient's left on the right."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from permmoe.preparation.quality.contact_sheet import MASK, TEMPLATE, VENTRICLES, Shown, contact_sheet, write_sheet
from permmoe.preparation.quality.rules import Finding, Judgement, Verdict
from tests.support.prepared_heads import AMYLOID, FLAIR, GRID, head, mask, shifted

GOOD = Judgement()
FAILED = Judgement((Finding(Verdict.FAILED, "disagreement_mm", "It lies far off: look at it", None),))


def sheet(*images: Shown, is_synthetic: bool = False) -> np.ndarray:
    made = contact_sheet("sub-1, session M000", images, GRID, is_synthetic=is_synthetic)
    return np.asarray(made.convert("RGB")).astype(int)


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.asarray(np.abs(picture - np.array(colour)).max(-1) < 30)


def test_each_image_adds_its_rows_below_the_others() -> None:
    t1 = Shown("t1", head(), mask(), GOOD)
    flair = Shown("flair", head(FLAIR), mask(), GOOD, own_t1=head())
    one, two, three = (sheet(*([t1, flair, flair][:n])).shape[0] for n in (1, 2, 3))
    assert one < two < three and three - two == two - one


def test_both_outlines_are_drawn_and_differ_where_the_mask_is_off() -> None:
    picture = sheet(Shown("t1", head(place=shifted(0, 12.0)), mask(place=shifted(0, 12.0)), GOOD))
    template, own = near(picture, TEMPLATE)[84:], near(picture, MASK)[84:]
    assert template.sum() > 2000 and own.sum() > 2000


def test_a_line_of_few_pixels_keeps_its_colour() -> None:
    picture = sheet(Shown("t1", head(), mask(), GOOD))  # Without the ventricles, which the legend names all the same.
    for colour in (TEMPLATE, MASK, VENTRICLES):
        assert (picture == np.array(colour)).all(-1).sum() > 20


def test_left_is_on_the_right_and_front_is_above() -> None:
    volume = np.zeros(GRID.shape, np.float32)
    volume[:24, 28:] = 1  # left, and in front
    picture = sheet(Shown("t1", volume, np.ones(GRID.shape, bool), GOOD))
    axial = picture[-190:-30, 16 : 16 + 6 * 167]
    bright = (axial.min(-1) > 200) & (np.ptp(axial, axis=-1) < 10)
    first = bright[:, :160]
    assert first[10:70, 95:150].mean() > 0.5 > 0.1 > first[10:70, 5:70].mean()
    assert first[120:150, 95:150].mean() < 0.1


def test_synthetic_data_and_verdicts_change_the_picture() -> None:
    t1 = Shown("t1", head(), mask(), GOOD)
    assert (sheet(t1) != sheet(t1, is_synthetic=True)).any()
    assert sheet(Shown("t1", head(), mask(), FAILED)).shape[0] > sheet(t1).shape[0], "its reason takes a line"


@pytest.mark.parametrize("values", [np.zeros(GRID.shape), np.full(GRID.shape, np.nan), np.full(GRID.shape, -1.0)])
@pytest.mark.parametrize("where", [np.zeros(GRID.shape, bool), np.ones(GRID.shape, bool)])
def test_whatever_an_image_holds_it_has_a_sheet(values: np.ndarray, where: np.ndarray) -> None:
    assert sheet(Shown("t1", values.astype(np.float32), where, FAILED, own_t1=values.astype(np.float32))).any()


def test_a_session_without_an_image_has_a_sheet_and_long_reasons_are_folded() -> None:
    assert sheet().shape[1] == 632
    long = Judgement((Finding(Verdict.LOOK, "noise", "word " * 200, None),))
    assert sheet(Shown("t1", head(), mask(), long)).shape[1] == sheet(Shown("t1", head(), mask(), GOOD)).shape[1]


def test_the_file_is_small_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "sheets" / "sub-1.png"
    four = [
        Shown(m, head(c), mask(), GOOD)
        for m, c in (("t1", FLAIR), ("flair", FLAIR), ("amyloid", AMYLOID), ("tau", AMYLOID))
    ]
    write_sheet(path, "sub-1", four, GRID, is_synthetic=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.stat().st_size < 200_000
    assert Image.open(path).format == "PNG"
