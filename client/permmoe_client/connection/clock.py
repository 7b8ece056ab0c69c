"""This machine's clock beside the coordinator's, which each of its answers tells in `Date` (RFC 9110, 6.6.1)."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from permmoe.runtime.text import duration_text

AHEAD_SECONDS, BEHIND_SECONDS = 5.0, 300.0
"""Flower refuses a signed request whose time is further from its own (flwr.common.constant, 1.42)."""


def ahead_seconds(date: str | None, now: datetime) -> float | None:
    """How far `now` is ahead of the time in an answer's `Date`; None where the answer has none."""
    with suppress(ValueError, TypeError):
        stated = parsedate_to_datetime(date or "")
        return (now - (stated if stated.tzinfo else stated.replace(tzinfo=UTC))).total_seconds()
    return None


def is_clock_right(ahead: float) -> bool:
    """Whether the coordinator takes requests of a clock that is so many seconds ahead of its own."""
    # A header's time has whole seconds.
    return -BEHIND_SECONDS <= ahead <= AHEAD_SECONDS + 1


def clock_text(ahead: float) -> str:
    """`this machine's clock is 10 min ahead of the coordinator's`."""
    return (
        f"this machine's clock is {duration_text(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} the coordinator's"
    )
