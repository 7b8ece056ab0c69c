"""`permmoe-server status` in a terminal."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rich.console import Console

from permmoe_server.status.coordinator_status import CoordinatorStatus
from permmoe_server.status.terminal import status_text


def test_a_terminal_shows_texts_literally(status: CoordinatorStatus, now: datetime) -> None:
    console = Console(record=True, width=150)
    console.print(status_text(replace(status, detail="[bold]\x1b[2J evil"), now))
    text = console.export_text()
    assert "[bold]" in text and "\x1b" not in text and "SYNTHETIC" in text
