"""The log lines of refusals."""

from __future__ import annotations

import queue

from permmoe_server.gateway.refusals import Refusals
from tests.support.patience import PATIENCE_SECONDS


def test_a_log_line_holds_a_short_escaped_path_and_nothing_else_of_the_request(lines: queue.Queue[str]) -> None:
    Refusals().note("path", "192.0.2.1", "M\n" * 99, b"/\n\x1b[31m\xff" + b"x" * 500)
    line = lines.get(timeout=PATIENCE_SECONDS)
    assert line.isprintable() and line.isascii() and len(line) < 250 and "\\n\\x1b[31m\\xff" in line
