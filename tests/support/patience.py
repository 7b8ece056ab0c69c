"""How long a test waits for what will come: so long that only a fault, and no busy machine, makes it wait in vain."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_SECONDS = 600.0


def wait_until(what: str, holds: Callable[[], object]) -> None:
    """Look again and again. Fails where it does not come true in the time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)
