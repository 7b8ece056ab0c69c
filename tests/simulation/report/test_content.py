"""How numbers are written."""

from __future__ import annotations

from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from permmoe_simulation.report.content import (
    amount,
    digits_for,
    duration,
    interval,
    listed,
    number,
    signed,
    table_digits,
)


@given(st.floats(-1e6, 1e6))
def test_written_numbers_read_back_as_themselves(value: float) -> None:
    text = number(value)
    assert float(text.replace(",", "").replace("−", "-")) == pytest.approx(round(value, 2), abs=1e-9)
    assert text != "−0.00"
    assert signed(value).startswith("+") == (value > 0 and text != "0.00")


def test_amounts_and_durations_read_naturally() -> None:
    assert [amount(x) for x in (0.0, 999.0, 1500.0, 2.34e6, 7.1e9)] == ["0 B", "999 B", "1.5 kB", "2.3 MB", "7.1 GB"]
    assert [duration(x) for x in (4.21, 61.0, 3600.0, 7265.0)] == ["4.2 s", "61 s", "60 min", "2.0 h"]
    assert (interval(-0.5, 0.25), interval(None, 1.0), interval(nan, 1.0)) == ("−0.50 to 0.25", "", "")


def test_differences_are_written_with_digits_that_say_something() -> None:
    assert [digits_for(x) for x in (0.0, 0.0034, -0.012, 0.2, 7.0, 31.0)] == [2, 4, 3, 2, 1, 1]
    assert [table_digits(x) for x in ([0.001, -0.02], [0.1, nan], [5.0], [-40.0])] == [4, 3, 2, 1]
    assert [listed(x) for x in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
