"""A study along an axis: crossings and trends."""

from __future__ import annotations

from math import nan
from pathlib import Path

import pandas as pd
import pytest

from permmoe_simulation.report.axis import axis_section, crossing_sentence, crossings
from tests.support.report_page import page_of, view
from tests.support.study_files import judged


def test_crossings_are_where_the_difference_changes_its_sign() -> None:
    assert crossings([0.0, 1.0, 3.0], [-1.0, 1.0, 3.0], "linear") == [0.5]
    assert crossings([3.0, 0.0, 1.0], [-3.0, -1.0, 1.0], "linear") == [0.5, 1.5]
    assert crossings([10.0, 1000.0], [1.0, -1.0], "log") == [pytest.approx(100.0)]
    assert crossings([0.0, 1.0], [0.2, 0.1], "linear") == []


def test_crossing_is_told_with_the_points_beyond_chance_and_the_trend(along: Path) -> None:
    shown = view(along)
    assert shown.summary.axis is not None
    told = crossing_sentence(shown, shown.summary.axis, ("permmoe", "flexmoe"), "mean")
    assert "stays below" in told and "10 (PerM-MoE better, −0.20) and 100" in told.replace(".0 (", " (")
    assert "From 10 to 1,000 the difference changes by +0.20 CDR-SB points" in told
    assert "over its logarithm (95% interval 0.10 to 0.30): a trend beyond chance" in told


def test_crossing_inside_the_noise_is_called_so(along: Path) -> None:
    table = pd.read_csv(along / "comparisons.csv")
    table["difference"] = table["regime"].map({"ten": -0.01, "hundred": 0.01, "thousand": 0.02})
    judged(table.assign(lower=-1.0, upper=1.0)).to_csv(along / "comparisons.csv", index=False)
    shown = view(along)
    assert shown.summary.axis is not None
    told = crossing_sentence(shown, shown.summary.axis, ("permmoe", "flexmoe"), "mean")
    assert "cannot be told from chance at any of 3 points" in told and "the crossing lies within the noise" in told


def test_crossings_and_trends_of_too_few_seeds_are_shown_and_not_judged(along: Path) -> None:
    for name in ("comparisons", "trends"):
        table = judged(pd.read_csv(along / f"{name}.csv"), seeds=3)
        table.assign(lower=nan, upper=nan).to_csv(along / f"{name}.csv", index=False)
    shown = view(along)
    assert shown.summary.axis is not None
    told = crossing_sentence(shown, shown.summary.axis, ("permmoe", "flexmoe"), "mean")
    assert "which is not judged (3 training seeds, fewer than 5)" in told and "changes by +0.20" in told
    assert "the trend is not judged (3 training seeds, fewer than 5)" in told and "95%" not in told


def test_axis_section_draws_errors_and_differences(along: Path) -> None:
    section = axis_section(view(along))
    assert section is not None and [item.kind for item in section.items].count("plot") == 2
    shown = page_of(along)
    assert shown.count("</svg>") == shown.count("<svg ")
