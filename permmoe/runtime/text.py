"""Durations and sizes as a person says them. Pages, reports and commands all use these two functions."""

from __future__ import annotations


def duration_text(seconds: float | int) -> str:
    """A duration in the unit that a reader would choose: `17 ms`, `0.4 s`, `12 s`, `3 min`, `2.5 h`, `4 days`."""
    if 0 < seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"


def size_text(n_bytes: float | int) -> str:
    """A number of bytes in the decimal unit that leaves one to three digits before the point: `1.7 MB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(n_bytes) >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes:.0f} B"
