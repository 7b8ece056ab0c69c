"""Figures: outliers, looks and labels."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from permmoe_simulation.report.figures import Mark, Panel, Row, row_plot
from permmoe_simulation.report.style import Look, shorten


def test_a_method_that_diverged_does_not_flatten_the_others() -> None:
    look = Look("#000000")
    calm = [Mark(row, 1.5 + 0.1 * row, look, 1.4, 2.1) for row in range(7)]
    rows = [Row(str(j)) for j in range(8)]
    svg = row_plot(rows, [Panel("", "RMSE", [*calm, Mark(7, 4321.0, look)])], ("t1",))
    assert "4.32e+03 ▸" in svg
    ticks = [float(t) for t in re.findall(r">(\d\.\d+)</text>", svg)]
    assert ticks and max(ticks) < 3


@given(st.text(max_size=40), st.integers(1, 30))
def test_shortened_text_fits_and_starts_as_the_text_does(text: str, characters: int) -> None:
    short = shorten(text, characters)
    assert len(short) <= max(2, characters)
    assert " ".join(text.split()).startswith(short.removesuffix("…").rstrip())
