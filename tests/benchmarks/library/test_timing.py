"""A stopwatch divides time among parts; no test here looks at a clock."""

from __future__ import annotations

from permmoe_benchmarks.library.timing import Stopwatch, milliseconds_by_part


class HandClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_stopwatch_gives_each_part_its_own_time_only() -> None:
    clock = HandClock()
    watch = Stopwatch(clock)
    watch.begin("outer")
    clock.now += 2.0
    for _ in range(2):
        watch.begin("inner")
        clock.now += 3.0
        watch.end()
    watch.end()
    assert watch.seconds == {"outer": 2.0, "inner": 6.0}


def test_a_part_can_end_at_a_time_that_has_passed() -> None:
    clock = HandClock()
    watch = Stopwatch(clock)
    watch.begin("outer")
    watch.begin("inner")
    clock.now += 3.0
    watch.end(at=1.0)
    watch.end()
    assert watch.seconds == {"outer": 2.0, "inner": 1.0}


def test_parts_and_rest_add_up_to_the_total_of_a_repeat() -> None:
    found = milliseconds_by_part({"small": 0.2, "large": 0.6}, total=1.0, n=2)
    assert found == {"total": 500.0, "large": 300.0, "small": 100.0, "rest": 100.0}
    assert list(found) == ["total", "large", "small", "rest"]
