from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from jaxtyping import Float
from scipy import ndimage

from permmoe.data.cohort.raw.pose import mapped
from permmoe.errors import DataError
from permmoe_benchmarks.library.heads import (
    AXIS_ORDERS,
    SOURCES,
    Head,
    Scanning,
    draw_scanning,
    find_heads,
    perturbed,
    scanned,
)

LANDMARKS_MM = np.array([[40.0, -18, 18], [-44, -30, 6], [4, 34, 20], [10, -70, -6], [-8, -20, 60]])

STILL = Scanning(
    angles_degrees=(0.0, 0.0, 0.0), shift_mm=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0), voxel_mm=(2.0, 2.0, 2.0),
    axes="RAS", tilt_degrees=(0.0, 0.0, 0.0), neck_mm=20.0, margin_mm=(4.0, 4.0, 4.0), bias=0.0, noise=0.0,
    level=1000.0,
)  # fmt: skip


def _head(*, is_stripped: bool = False) -> Head:
    """A dim ellipsoid on a dim cylinder, with bright balls at the landmarks; 2 mm."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -90, -126, -72
    points = np.stack(np.meshgrid(*(np.arange(n) for n in (91, 109, 91)), indexing="ij"), axis=-1) * 2.0 + affine[:3, 3]
    inside = (((points - [0, -18, 6]) / [70, 90, 72]) ** 2).sum(axis=-1) < 1
    neck = (np.hypot(points[..., 0], points[..., 1] + 30) < 50) & (points[..., 2] < 0)
    voxels = 60.0 * (inside | neck)
    for landmark in LANDMARKS_MM:
        voxels += 900 * np.exp(-(((points - landmark) / 5) ** 2).sum(axis=-1))
    return Head("drawn", nib.Nifti1Image(voxels.astype(np.float32), affine), None, is_stripped)


def _bright_balls_mm(image: nib.Nifti1Image) -> Float[np.ndarray, "balls 3"]:
    voxels = image.get_fdata()
    labels, count = ndimage.label(voxels > 0.3 * voxels.max())
    centres = ndimage.center_of_mass(voxels, labels, range(1, count + 1))
    return mapped(image.affine, np.array(centres))


@pytest.mark.parametrize("seed", range(5))
def test_the_known_map_takes_landmarks_seen_in_the_image_back_to_where_they_are_in_the_head(seed: int) -> None:
    image, to_original = perturbed(_head(), seed)
    found = mapped(to_original, _bright_balls_mm(image))
    distances = np.linalg.norm(found[:, None] - LANDMARKS_MM, axis=-1)
    assert found.shape == LANDMARKS_MM.shape
    assert distances.min(axis=0).max() < 1.0
    assert sorted(distances.argmin(axis=0)) == [0, 1, 2, 3, 4]


def test_a_head_that_was_not_perturbed_keeps_its_voxels() -> None:
    head = _head()
    image = scanned(head, _scanning(neck_mm=2.0), np.random.default_rng(0))
    voxels, original = image.get_fdata(), head.image.get_fdata()
    at = np.linalg.inv(head.image.affine) @ image.affine
    expected = ndimage.affine_transform(original, at[:3, :3], at[:3, 3], output_shape=image.shape, order=1)
    np.testing.assert_allclose(voxels, expected * (voxels.max() / expected.max()), atol=2)


def test_equal_seeds_give_equal_bytes_and_others_do_not() -> None:
    head = _head()
    first, second, other = (perturbed(head, seed)[0].to_bytes() for seed in (3, 3, 4))
    assert first == second != other


def test_every_axis_order_is_one_of_the_48_and_many_are_drawn() -> None:
    assert len(set(AXIS_ORDERS)) == 48
    assert len({draw_scanning(seed).axes for seed in range(200)}) > 40
    image, _ = perturbed(_head(), 5)
    assert "".join(nib.aff2axcodes(image.affine)) == draw_scanning(5).axes


def test_the_image_says_honestly_where_its_voxels_are() -> None:
    image, _ = perturbed(_head(), 1)
    assert int(image.header["qform_code"]) == int(image.header["sform_code"]) == 1
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)
    assert sorted(image.header.get_zooms()) == pytest.approx(sorted(draw_scanning(1).voxel_mm), abs=1e-4)


@pytest.mark.parametrize("neck_mm", [5.0, 80.0])
def test_the_neck_ends_where_it_is_said_to_and_is_made_longer_than_the_head_has_it(neck_mm: float) -> None:
    image = scanned(_head(), _scanning(neck_mm=neck_mm), np.random.default_rng(0))
    lowest_mm = image.affine[2, 3] - 1
    assert lowest_mm == pytest.approx(-66 - neck_mm, abs=3)
    assert image.get_fdata()[:, :, 0].max() > 0


def test_a_bare_brain_gets_neither_neck_nor_noise_in_the_air() -> None:
    image = scanned(_head(is_stripped=True), _scanning(noise=0.05, neck_mm=60.0), np.random.default_rng(0))
    voxels = image.get_fdata()
    assert not voxels[:, :, :10].any()
    assert voxels.any()


def test_shading_departs_from_one_by_what_was_asked() -> None:
    plain = scanned(_head(), STILL, np.random.default_rng(0)).get_fdata()
    shaded = scanned(_head(), _scanning(bias=0.4), np.random.default_rng(0)).get_fdata()
    ratio = shaded[plain > 40] / plain[plain > 40]
    assert 0.15 < np.abs(ratio - 1).max() < 0.43


def test_the_brain_that_nilearn_ships_is_always_found() -> None:
    [head] = find_heads(["icbm152"])
    assert head.is_stripped
    assert head.brain is not None
    assert head.brain.shape == head.image.shape


def test_a_head_that_is_not_on_this_machine_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("permmoe_benchmarks.library.heads.HeadSource.path", lambda source, file: None)
    with pytest.raises(DataError, match="apt-get install mricron-data"):
        find_heads(["colin27"])
    with pytest.raises(DataError, match=r"colin27.*mni152.*mean-face"):
        find_heads()


def test_an_unknown_head_names_the_nearest() -> None:
    with pytest.raises(DataError, match="colin27"):
        find_heads(["colin"])
    assert all(source.remedy for source in SOURCES)


def _scanning(**changes: float) -> Scanning:
    return Scanning(**{**vars(STILL), **changes})
