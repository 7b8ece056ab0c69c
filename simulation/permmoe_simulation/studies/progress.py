"""How a long run reports what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Callbacks of the caller, who shows or ignores what they report; each may be called often."""

    stage: Callable[[str, int], None]
    """A new stage begins: its name, and how many steps it has."""
    step: Callable[[str], None]
    """A step of the stage is done: what it was."""
    note: Callable[[str], None]
    """Something worth a line of its own."""
