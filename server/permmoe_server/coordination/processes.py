"""The coordinator's child processes: started, started again when they end, and stopped with it."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

LOG = logging.getLogger("permmoe.server")

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",
}
"""Settings that keep Flower and Ray from sending usage reports."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
STEADY_SECONDS = 60.0
"""A child that has run this long does not fail at its start, so its next start is not delayed."""


LOG_BYTES = 10_000_000
"""A log of a program that is longer is put aside: Flower's superlink writes 33 MB a day without doing anything."""


@dataclass(frozen=True)
class Program:
    """A command to run, and the file of its output."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class Child:
    """A process of a program that is kept running."""

    def __init__(self, program: Program, clock: Callable[[], float] = time.monotonic) -> None:
        self.program, self._clock = program, clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started, self._not_before, self._pause = 0.0, 0.0, FIRST_PAUSE_SECONDS

    def tend(self) -> None:
        """Start the program where it does not run. After each early end the pause before the next start is longer."""
        now = self._clock()
        _put_aside(self.program.log)
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                return
            steady = now - self._started > STEADY_SECONDS
            self._pause = FIRST_PAUSE_SECONDS if steady else min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            self._not_before = now + self._pause
            self._process = None
            LOG.warning("%s ended (status %s); starting it again", self.program.name, status)
        if now < self._not_before:
            return
        self._started = now
        tethered = [sys.executable, "-m", "permmoe_server.coordination.tether", *self.program.command]
        with self.program.log.open("ab") as log:
            self._process = subprocess.Popen(
                tethered,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **QUIET, **self.program.environment},
                start_new_session=True,
            )

    def stop(self, patience_seconds: float = 10.0) -> None:
        """Ask the program to end, and kill it where it has not ended after `patience_seconds`."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


@contextmanager
def kept_running(programs: Iterable[Program]) -> Iterator[Callable[[], None]]:
    """Yield a function that starts the programs, and starts again those that ended; stop them at the end."""
    children = [Child(program) for program in programs]

    def tend() -> None:
        for child in children:
            child.tend()

    try:
        yield tend
    finally:
        for child in reversed(children):
            child.stop()


def _put_aside(log: Path) -> None:
    """Begin a log anew that has become long, and keep one old one. Its program goes on writing to the same file."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        # The program appends, so that it goes on at the file's new end.
        os.truncate(log, 0)
