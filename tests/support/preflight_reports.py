"""What a report of the preflight says, for tests."""

from __future__ import annotations

import io

from rich.console import Console

from permmoe_client.preflight.report import Report, Verdict
from permmoe_client.preflight.run import CHECKS, CONFIGURATION

IDS = [CONFIGURATION, *(check.id for check in CHECKS)]


def shown(report: Report, *, with_items: bool = False) -> str:
    console = Console(file=io.StringIO(), width=400)
    console.print(report.to_table(with_items=with_items))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def wrong(report: Report) -> set[str]:
    return {f.check for f in report.findings if f.verdict in (Verdict.WARNING, Verdict.FAILED)}
