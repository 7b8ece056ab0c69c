"""The sections on the run itself: which methods were compared, what failed, and how to repeat it."""

from __future__ import annotations

from math import isfinite
from typing import Any

from permmoe_simulation.report.content import Entry, Fold, Item, Listing, Section, Table, Text, duration, number
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View


def methods_section(view: View) -> Section:
    """Which methods are compared, in the order of every figure."""
    rows = [
        [Entry(method.label), Entry(method.kind), Entry(method.description)] for method in view.summary.methods.values()
    ]
    table = Table(
        "The methods, in the order of every figure and table.",
        ["Method", "Kind", "What it is"],
        rows,
        is_prose=True,
        is_from_study=False,
    )
    facts = [
        f"Seeds: {', '.join(map(str, view.summary.seeds))}." if view.summary.seeds else "",
        f"Missingness regimes: {', '.join(view.regimes)}.",
    ]
    items: list[Item] = [Text(view.summary.data)] if view.summary.data else []
    return Section("methods", "What was compared", [*items, Text(" ".join(filter(None, facts))), table])


def failures_section(view: View) -> Section:
    """Which runs failed, and how many image files were set aside."""
    summary = view.summary
    items: list[Item] = []
    if summary.failed_cells:
        rows = [[Entry(_run_name(cell)), Entry(_run_reason(cell))] for cell in summary.failed_cells]
        items.append(
            Table(
                "Runs that failed; no figure on this page contains them.",
                ["Run", "What happened"], rows, is_prose=True, is_from_study=False,
            )
        )  # fmt: skip
    else:
        items.append(Text("No run failed."))
    if summary.quarantine:
        rows = [[Entry(reason), Entry(f"{n:,}")] for reason, n in summary.quarantine.items()]
        caption = "Image files set aside because they could not be used; their visits kept their other modalities."
        items.append(Table(caption, ["Reason", "Files"], rows))
    else:
        items.append(Text("No image file was quarantined."))
    return Section("gaps", "Failures and quarantine", items)


def repeat_section(view: View) -> Section:
    """Everything needed to obtain the same page again."""
    summary = view.summary
    items: list[Item] = []
    if summary.command:
        items.append(Listing(summary.command))
    facts = [
        f"Finished {summary.date}." if summary.date else "",
        f"Took {duration(summary.seconds)}." if summary.seconds is not None and isfinite(summary.seconds) else "",
        f"On {summary.machine}." if summary.machine else "",
        f"Peak memory {number(summary.peak_memory_mb, 0)} MB."
        if summary.peak_memory_mb is not None and isfinite(summary.peak_memory_mb)
        else "",
    ]
    if any(facts):
        items.append(Text(" ".join(filter(None, facts))))
    if summary.configuration:
        items.append(Fold("Configuration", [Listing(summary.configuration)]))
    for title, pairs in (("Versions", summary.versions), ("Digests of the data and models", summary.digests)):
        if pairs:
            rows = [[Entry(name), Entry(value)] for name, value in pairs.items()]
            items.append(Fold(title, [Table(title, ["Name", "Value"], rows, is_prose=True, is_from_study=False)]))
    return Section("repeat", "Run it again", items)


def _run_name(cell: str | dict[str, Any]) -> str:
    if isinstance(cell, str):
        return cell
    return ", ".join(str(value) for key, value in cell.items() if key not in ("error", "reason"))


def _run_reason(cell: str | dict[str, Any]) -> str:
    return "" if isinstance(cell, str) else str(cell.get("reason", cell.get("error", "")))


METHODS = ReportSection(methods_section)
FAILURES = ReportSection(failures_section)
REPEAT = ReportSection(repeat_section)
