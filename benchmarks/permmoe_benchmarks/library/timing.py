"""How long a call takes, and how the time of a run divides into parts."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

Figures = dict[str, Any]
"""What a measurement returns: figures by name, as JSON takes them."""


def median_seconds(step: Callable[[], object], at_least: int = 3, for_seconds: float = 1.5) -> float:
    """The median time of a call, s. The first call is not counted, since it allocates and imports.

    The step is called `at_least` times, and until `for_seconds` have been spent in it.
    """
    step()
    times: list[float] = []
    while len(times) < at_least or sum(times) < for_seconds:
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


class Stopwatch:
    """The seconds of named parts, each without the parts inside it."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.clock = clock
        self._running: list[tuple[str, float, float]] = []
        """Name, beginning and the seconds of inner parts, outermost first."""

    def begin(self, name: str) -> None:
        """Begin a part, inside the one that is running."""
        self._running.append((name, self.clock(), 0.0))

    def end(self, at: float | None = None) -> None:
        """End the innermost part, now or `at` a time of the clock that has passed."""
        name, begun, inner = self._running.pop()
        elapsed = (self.clock() if at is None else at) - begun
        self.seconds[name] += elapsed - inner
        if self._running:
            outer, outer_begun, outer_inner = self._running.pop()
            self._running.append((outer, outer_begun, outer_inner + elapsed))


def milliseconds_by_part(seconds: Mapping[str, float], total: float, n: int) -> dict[str, float]:
    """Milliseconds of each part in one of `n` repeats, the largest first, between their `total` and the `rest`."""
    parts = {name: 1e3 * value / n for name, value in sorted(seconds.items(), key=lambda item: -item[1])}
    rest = 1e3 * total / n - sum(parts.values())
    return {"total": round(1e3 * total / n, 3), **{k: round(v, 3) for k, v in parts.items()}, "rest": round(rest, 3)}
