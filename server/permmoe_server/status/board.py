"""The board on which the coordinator's loop posts its status for the threads that show it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from permmoe_server.status.coordinator_status import CoordinatorStatus


class StatusBoard:
    """The newest status; one thread updates it and others read it."""

    def __init__(self, status: CoordinatorStatus, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock, self._clock = threading.Lock(), clock
        self._status, self._updated = status, clock()

    def update(self, **changes: Any) -> None:
        """Replace the given fields of the status; a call without any confirms that the status still holds."""
        with self._lock:
            self._status, self._updated = replace(self._status, **changes), self._clock()

    def snapshot(self) -> CoordinatorStatus:
        """Return the newest status, which is immutable."""
        return self._status

    def age_seconds(self) -> float:
        """Return the time since the last update, seconds."""
        return self._clock() - self._updated
