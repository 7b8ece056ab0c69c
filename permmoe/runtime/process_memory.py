"""How much memory a process holds, and has held at most, as Linux reports it in /proc. Megabytes are decimal."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

KILOBYTE = 1024
"""Linux writes kB and means 1,024 bytes."""


def peak_memory_mb(process: int | None = None) -> float:
    """The largest resident size of a process, by default this one, since it began or `forget_peak_memory`, MB.

    Libraries count. Without /proc, getrusage reports this process' peak, and another's raises OSError.
    """
    try:
        return _status_mb("VmHWM", process)
    except OSError:
        if process is not None:
            raise
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KILOBYTE / 1e6


def resident_memory_mb(process: int | None = None) -> float:
    """What a process, by default this one, holds in memory now, MB. Raises OSError without /proc."""
    return _status_mb("VmRSS", process)


def forget_peak_memory() -> None:
    """Let this process' peak begin anew, which only Linux can; getrusage would inherit the parent process' peak."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status_mb(field: str, process: int | None) -> float:
    lines = Path(f"/proc/{process or 'self'}/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(kilobytes) * KILOBYTE / 1e6
