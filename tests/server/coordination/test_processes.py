"""The coordinator's programs, as real processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from permmoe_server.coordination import processes
from permmoe_server.coordination.processes import Child, Program
from permmoe_simulation.engines.local_deployment import wait_for

TALKATIVE = "import time\nwhile True:\n    print('x' * 99, flush=True)\n    time.sleep(0.001)"


def test_the_log_of_a_program_that_talks_on_does_not_grow_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LOG_BYTES", 5_000)
    log = tmp_path / "superlink.log"
    child = Child(Program("superlink", [sys.executable, "-c", TALKATIVE], log))
    child.tend()
    try:
        old = log.with_suffix(".log.1")
        for _ in range(3):
            old.unlink(missing_ok=True)
            wait_for(lambda: log.stat().st_size > 5_000 or None, "a long log", 300.0)
            child.tend()
            assert old.stat().st_size > 5_000
        wait_for(lambda: log.stat().st_size > 0 or None, "a log that goes on", 300.0)
        assert log.read_bytes()[:1] == b"x", "no hole of zeros where the old log was"
    finally:
        child.stop()
    assert log.stat().st_size + old.stat().st_size < 10_000_000
