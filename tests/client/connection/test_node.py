"""How a site's process waits for messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from permmoe_client.connection.node import poll_seconds


def questions(until: float) -> list[float]:
    """When a site that waits from 0 on asks, the first question at or after `until` included, seconds."""
    asked = [0.0]
    while asked[-1] < until:
        asked.append(asked[-1] + poll_seconds(asked[-1]))
    return asked


@given(arrives=st.floats(0.0, 5000.0))
def test_a_message_lies_no_longer_than_a_tenth_of_the_time_that_its_site_waited_for_it(arrives: float) -> None:
    assert questions(arrives)[-1] - arrives <= min(max(0.2, 0.1 * arrives), 5.0) + 1e-6


def test_who_waits_long_asks_little() -> None:
    assert len(questions(10.0)) <= 30 and len(questions(60.0)) <= 50
    assert len(questions(3600.0)) <= 50 + 3600 / 5
