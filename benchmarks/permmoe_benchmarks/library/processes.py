"""Other processes' programs and processor time, as Linux reports them in /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def processor_seconds(process: int) -> float:
    """The time that a process has had on a processor, s."""
    # Behind the program's name, which may have spaces: proc(5), fields 14 and 15.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def programs(first: int, name: str = "coordinator") -> Iterator[tuple[str, int]]:
    """The coordinator, or what else is named so, and the programs that it started, by what each is and its process."""
    waiting = [(name, first)]
    while waiting:
        name, found = waiting.pop()
        yield name, found
        children = Path(f"/proc/{found}/task/{found}/children").read_text().split()
        waiting += [(_program(int(child)), int(child)) for child in children]


def _program(process: int) -> str:
    arguments = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
    return next((name for name in ("superlink", "gateway") if any(name in a for a in arguments[:3])), "executor")
