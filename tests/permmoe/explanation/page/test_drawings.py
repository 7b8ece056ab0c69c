"""Drawings put every number where the axis says that it is."""

from __future__ import annotations

import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from permmoe.calibration.intervals import BY_COMBINATION, PredictionInterval
from permmoe.explanation.page.drawings import BAR_WIDTH, WIDTH, axis, sum_steps
from permmoe.predict import Prediction
from tests.support.explained_visits import OUTCOMES

CHANGES = st.floats(-17, 17)


@given(CHANGES, CHANGES, st.floats(0, 9), st.booleans())
@example(change=0.0, middle=0.0, reach=5e-324, has_outcomes=False)
def test_all_that_is_drawn_lies_on_the_axis_in_its_order(
    change: float, middle: float, reach: float, has_outcomes: bool
) -> None:
    interval = PredictionInterval(0.8, middle - reach, middle + reach, 99, 3, BY_COMBINATION)
    found = axis(Prediction("ada", change, ("t1",), (), (), (interval,)), OUTCOMES if has_outcomes else None)
    assert found is not None
    [bar] = found.intervals
    places = [found.zero, found.prediction, bar.x, bar.x + bar.width, *(x for x, _ in found.ticks)]
    places += [x for one in found.histogram for x in (one.x, one.x + one.width)]
    assert min(places) >= -1e-6 and max(places) <= WIDTH + 1e-6
    assert (found.zero < found.prediction) == (change > 0) or abs(change) < 1e-6
    assert 2 <= len(found.ticks) <= 12


def test_the_area_of_a_bar_is_its_visits() -> None:
    found = axis(Prediction("ada", 0.5, ("t1",), ()), OUTCOMES)
    assert found is not None
    areas = [bar.width * bar.height for bar in found.histogram]
    assert [round(area / areas[0] * OUTCOMES.counts[0], 6) for area in areas] == list(OUTCOMES.counts)


def test_with_nothing_but_a_prediction_there_is_no_axis() -> None:
    assert axis(Prediction("ada", 0.5, ("t1",), ()), None) is None


@given(CHANGES, st.lists(CHANGES, max_size=5))
def test_each_step_begins_where_the_one_before_ends(start: float, added: list[float]) -> None:
    steps = sum_steps("first", start, [(str(n), value) for n, value in enumerate(added)], "last")
    assert abs(steps[-1].value - (start + sum(added))) < 1e-9
    assert all(step.x >= 0 and step.x + step.width <= BAR_WIDTH for step in steps)
    inner = steps[1:-1]
    for one, other in itertools.pairwise(inner):
        ends = {round(one.x, 3), round(one.x + one.width, 3)}
        others = {round(other.x, 3), round(other.x + other.width, 3)}
        assert min(abs(a - b) for a in ends for b in others) <= 1.001  # a line of nothing is a pixel wide
