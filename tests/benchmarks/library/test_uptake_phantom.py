from __future__ import annotations

import numpy as np
import pytest
from jaxtyping import Float
from scipy import ndimage

from permmoe.data.cohort.raw.pose import mapped
from permmoe_benchmarks.library.uptake_phantom import KnownUptake, UptakePhantom, cortex, uptake_phantom


@pytest.fixture(scope="module")
def phantom() -> UptakePhantom:
    return uptake_phantom(3, KnownUptake(cortex=1.7))


def _at(phantom: UptakePhantom, points_mm: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """Ratios at points of the template, by the true map and the true scale."""
    to_voxels = np.linalg.inv(phantom.image.affine) @ np.linalg.inv(phantom.to_template)
    places = mapped(to_voxels, points_mm)
    return ndimage.map_coordinates(phantom.image.get_fdata(), places.T, order=1) / phantom.bq_per_ml


CEREBELLUM_MM = np.array([[x, y, z] for x in (-30.0, -22, 22, 30) for y in (-68.0, -60) for z in (-44.0, -36)])


def test_the_cerebellum_has_a_ratio_of_one_by_the_true_map_and_scale(phantom: UptakePhantom) -> None:
    assert _at(phantom, CEREBELLUM_MM).mean() == pytest.approx(1.0, abs=0.03)


def test_the_scan_shows_the_true_ratios_everywhere_in_the_brain(phantom: UptakePhantom) -> None:
    ratios, affine = phantom.true_ratios()
    places = np.argwhere(ratios[::6, ::6, ::6] > 0.9) * 6
    expected = ratios[tuple(places.T)]
    found = _at(phantom, mapped(affine, places.astype(float)))
    assert np.median(np.abs(found - expected)) < 0.06
    assert found.mean() == pytest.approx(expected.mean(), rel=0.01)


def test_cortex_takes_up_more_where_more_was_asked(phantom: UptakePhantom) -> None:
    less = uptake_phantom(3, KnownUptake(cortex=1.1))
    inside = cortex()
    high, low = (each.true_ratios()[0][inside].mean() for each in (phantom, less))
    assert 1.3 < high < 1.7
    assert high - low > 0.4


def test_counts_need_a_reference_region_and_equal_seeds_give_equal_images(phantom: UptakePhantom) -> None:
    again = uptake_phantom(3, KnownUptake(cortex=1.7))
    np.testing.assert_array_equal(phantom.image.get_fdata(), again.image.get_fdata())
    other = uptake_phantom(4)
    assert other.bq_per_ml != phantom.bq_per_ml
    assert phantom.bq_per_ml > 1000
    assert phantom.image.header.get_zooms() == (2.0, 2.0, 3.0)
    assert int(phantom.image.header["qform_code"]) == 1
