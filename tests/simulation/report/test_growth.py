"""How a round grows along an axis."""

from __future__ import annotations

from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from permmoe_simulation.report.growth import exponent, growth_section
from tests.support.report_page import texts, view

VALUES = {"ten": 10.0, "hundred": 100.0, "thousand": 1000.0}


def test_growth_of_a_round_is_told_as_a_power_of_the_axis(along: Path) -> None:
    rounds = pd.read_csv(along / "rounds.csv", dtype={"site": str})
    size = rounds["regime"].map(VALUES)
    rounds.assign(round_seconds=0.5 * size**0.5, bytes_down=1000 * size, bytes_up=0).to_csv(
        along / "rounds.csv", index=False
    )
    told = texts(growth_section(view(along)))
    assert "the time of a round goes from 1.6 s to 16 s (as sites to the power of 0.50)" in told
    assert "(as sites to the power of 1.00)" in told and "memory" not in told
    costs = [{"method": m, "regime": r, "seed": 0, "seconds": 1.0, "peak_memory_mb": 400.0}
             for m in ("permmoe", "flexmoe") for r in VALUES]  # fmt: skip
    pd.DataFrame(costs).to_csv(along / "costs.csv", index=False)
    assert "peak memory of the process goes from 400.0 MB to 400.0 MB (as sites to the power of 0.00)" in texts(
        growth_section(view(along))
    )


def test_exponent_of_a_power_law_is_found_and_that_of_one_point_is_not() -> None:
    assert exponent([2.0, 5.0, 11.0], [3 * x**1.7 for x in (2.0, 5.0, 11.0)]) == pytest.approx(1.7)
    assert np.isnan(exponent([3.0, 3.0], [1.0, 2.0])) and np.isnan(exponent([1.0, 2.0], [nan, 0.0]))
