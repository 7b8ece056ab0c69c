"""What a site's own log says of a preparation that takes hours: counts, of no subject and no file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from permmoe.preparation.progress import Step

LOG = logging.getLogger("permmoe.client")

LINES_A_STEP = 10
LEAST_SECONDS = 60.0
"""Tenths that follow each other faster are passed over: of what is finished already, all pass in a moment."""
MOST_SECONDS = 1800.0
"""A line is due after this time, however little was done."""


class PreparationLog:
    """A `Progress` that writes a line where a step begins and ends, at each tenth between, and each half hour."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._step: Step | None = None
        self._tenth = 0
        self._written_at = 0.0
        self._n_left_out = 0

    def __call__(self, step: Step, done: int, total: int | None) -> None:
        """Take note of how far a step is; write a line where one is due."""
        if step is Step.LEFT_OUT:
            self._n_left_out = done
            return
        if not total:
            return
        now, tenth = self._clock(), LINES_A_STEP * done // total
        waited = now - self._written_at
        is_due = (tenth > self._tenth and waited >= LEAST_SECONDS) or waited >= MOST_SECONDS
        if step is not self._step or done == total or is_due:
            left_out = f", {self._n_left_out} left out" if step is Step.PREPARED and self._n_left_out else ""
            LOG.info("preparing raw images: %s: %d of %d%s", step, done, total, left_out)
            self._step, self._tenth, self._written_at = step, tenth, now
