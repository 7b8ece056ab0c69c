"""Which sites are ready for a study's next round, and the errors that end a study before its last one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from permmoe.errors import PermmoeError


class NoQuorum(PermmoeError):
    """Too few sites answered, round after round."""


class StudyLost(NoQuorum):
    """No site can answer any more, whatever is mended: the study has to begin anew."""


@dataclass(frozen=True)
class Readiness:
    """Which of the connected sites could take part in the study's next round."""

    is_waiting: bool
    """Whether they are too few."""
    needed: int
    ready: tuple[str, ...]
    """Sites that have approved the study."""
    unapproved: tuple[str, ...]
    silent: tuple[str, ...]
    """Sites that have not answered yet."""
    quarantined: tuple[str, ...] = ()
    """Sites that are not asked any more, since they sent what is no reply."""
    unproven: Mapping[str, str] = field(default_factory=dict)
    """Site -> the rule by which what came for it is not known to be its own."""


ReadinessObserver = Callable[[Readiness], None]
"""Called while the study waits for its sites, and when it waits no longer."""
