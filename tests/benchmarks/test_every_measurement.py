"""Everything that `make bench` and `make scaling` measure does run, at a size that says nothing."""

from __future__ import annotations

from functools import cache
from math import isfinite

import pytest

from permmoe_benchmarks import performance
from permmoe_benchmarks.library.curve import Curve
from permmoe_benchmarks.library.own_process import measure
from permmoe_benchmarks.measurements.registry import CURVES
from permmoe_benchmarks.pages.performance import performance_page
from permmoe_benchmarks.pages.series import DEFAULT_FIGURE

# They share a synthetic cohort, which one process at a time writes.
pytestmark = pytest.mark.xdist_group("benchmarks")
FIRST_OF_KIND = list({curve.kind: curve for curve in reversed(CURVES)}.values())


def test_every_goal_has_a_figure_and_the_page_shows_it() -> None:
    # Several goals have sides in common.
    result = performance.measured_result("tiny", "*", 1, cache(performance.measure_side))
    assert not result["failed"]
    rows = [*result["rows"], *result["candidates"]]
    assert [row["name"] for row in rows if not isfinite(row["median"])] == []
    page = performance_page(result)
    assert all(row["says"] in page for row in rows)


@pytest.mark.parametrize("curve", FIRST_OF_KIND, ids=lambda curve: curve.kind)
def test_every_kind_of_point_of_a_scaling_curve_has_its_figure(curve: Curve) -> None:
    figure = measure(curve.point("tiny", curve.at["tiny"][0]))[DEFAULT_FIGURE[curve.kind]]
    assert isfinite(figure) and figure > 0
