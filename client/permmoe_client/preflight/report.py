"""What the preflight found: for people a table with a remedy beside whatever is not right, for machines JSON.

The report stays at the site. Even so it names no subject unless it is asked to: people paste reports into tickets.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

FORMAT_VERSION = 1
"""The version of the JSON report. It is raised when a key changes its meaning or goes; keys may be added."""


class Verdict(StrEnum):
    """What a check comes to."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


BY_GRAVITY = (Verdict.FAILED, Verdict.WARNING, Verdict.OK, Verdict.SKIPPED)
EXIT_CODES = {Verdict.OK: 0, Verdict.SKIPPED: 0, Verdict.WARNING: 1, Verdict.FAILED: 2}
COLOURS = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILED: "bold red", Verdict.SKIPPED: "dim"}


@dataclass(frozen=True)
class Finding:
    """What one check came to."""

    check: str
    """`topic.name`; stays the same from version to version."""
    title: str
    """What is the case where all is well."""
    verdict: Verdict
    detail: str
    """What is the case here: no subject in it."""
    remedy: str = ""
    """What to do; empty where all is well."""
    items: tuple[str, ...] = ()
    """What exactly, which may name subjects; shown only on request."""

    @property
    def topic(self) -> str:
        """The part of the check's name before the dot."""
        return self.check.split(".", 1)[0]


@dataclass(frozen=True)
class Report:
    """All findings, those of one topic side by side."""

    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Verdict:
        """The gravest verdict; a check that was skipped is no grievance."""
        found = {finding.verdict for finding in self.findings}
        return next((verdict for verdict in BY_GRAVITY if verdict in found), Verdict.SKIPPED)

    @property
    def exit_code(self) -> int:
        """0 where nothing is wrong, 1 where there are warnings only, 2 where something failed."""
        return EXIT_CODES[self.worst]

    @property
    def counts(self) -> dict[str, int]:
        """How many findings of each verdict, zeros included."""
        found = Counter(finding.verdict for finding in self.findings)
        return {verdict.value: found[verdict] for verdict in Verdict}

    def to_json(self, *, with_items: bool = False) -> str:
        """The report for machines, as JSON. Subjects are named only `with_items`."""
        findings = [
            {
                "check": finding.check,
                "topic": finding.topic,
                "title": finding.title,
                "verdict": finding.verdict.value,
                "detail": finding.detail,
                "remedy": finding.remedy,
                **({"items": list(finding.items)} if with_items else {}),
            }
            for finding in self.findings
        ]
        content = {
            "format": FORMAT_VERSION,
            "worst": self.worst.value,
            "exit_code": self.exit_code,
            "counts": self.counts,
            "findings": findings,
        }
        return json.dumps(content, indent=1)

    def to_table(self, *, with_items: bool = False) -> RenderableType:
        """The report for people: a table for each topic, then a sentence. Subjects are named only `with_items`."""
        parts: list[RenderableType] = []
        for topic, findings in groupby(self.findings, key=lambda finding: finding.topic):
            table = Table("", "check", "found", title=topic, title_justify="left", expand=True)
            for finding in findings:
                colour = COLOURS[finding.verdict]
                table.add_row(f"[{colour}]{finding.verdict}[/]", escape(finding.title), _found(finding, with_items))
            parts.append(table)
        return Group(*parts, Text(self.sentence()))

    def sentence(self) -> str:
        """The whole report in one sentence."""
        counts = self.counts
        checked = len(self.findings) - counts["skipped"]
        skipped = f" ({counts['skipped']} skipped)" if counts["skipped"] else ""
        match self.worst:
            case Verdict.FAILED:
                return (
                    f"{counts['failed']} of {checked} checks failed{skipped}: this site cannot take part before they "
                    "are mended."
                )
            case Verdict.WARNING:
                return f"This site can take part; {counts['warning']} of {checked} checks warn{skipped}."
            case _:
                return f"All {checked} checks passed{skipped}: this site can take part."


def _found(finding: Finding, with_items: bool) -> Text:
    text = Text(finding.detail)
    if finding.remedy:
        text.append(f"\n→ {finding.remedy}", style="bold")
    if with_items:
        for item in finding.items:
            text.append(f"\n  {item}", style="dim")
    return text
