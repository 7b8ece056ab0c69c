"""The sections that show what happened inside: who has what, which expert works, what it costs, how to repeat it."""

from __future__ import annotations

from math import isfinite
from typing import Any

import pandas as pd

from permmoe_simulation.report.content import (
    Entry,
    Fold,
    Item,
    Listing,
    Plot,
    Section,
    Table,
    Text,
    count,
    duration,
    number,
)
from permmoe_simulation.report.figures import slice_gallery
from permmoe_simulation.report.view import View


def methods_section(view: View) -> Section:
    """Who is compared, in the order of every figure."""
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


def sites_section(view: View) -> Section:
    """Which site holds how many of each modality."""
    sites = view.study.sites
    title = "Who has what"
    if sites is None or sites.empty:
        return Section("sites", title, [Text("Not available: the study left no table of sites (sites.csv).")])
    modalities = [m for m in view.modalities if m in sites.columns]
    columns = [*modalities, "train", "validation", "test"]
    numbers = sites[columns].apply(pd.to_numeric, errors="coerce").fillna(0).astype(int)
    peak = max(1, int(numbers[modalities].to_numpy().max(initial=0)))
    rows = [
        [
            Entry(str(site)),
            *(
                Entry(f"{n:,}", heat=(0.08 + 0.92 * n / peak) if n and c in modalities else 0.0, is_quiet=n == 0)
                for c, n in ((c, int(line[c])) for c in columns)
            ),
        ]
        for site, line in zip(sites["site"], numbers.to_dict("records"), strict=True)
    ]
    total = [
        Entry(f"{len(sites)} sites" if len(sites) > 1 else "1 site"),
        *(Entry(f"{numbers[c].sum():,}") for c in columns),
    ]
    table = Table(
        "Visits with each modality at each site, the darker the more; then the visits of each split. A site with 0 "
        "in a column never trains that modality's encoder and router.",
        ["Site", *modalities, "Train", "Validation", "Test"],
        [*rows, total],
        has_total=True,
    )
    left_out = view.summary.left_out_sites
    note = [Text(f"{count(left_out, 'more site')} took no part: too few training visits.")] if left_out else []
    return Section("sites", title, [table, *note])


def images_section(view: View) -> Section | None:
    """What the model sees: shown for synthetic images only. Nothing for public tables, which have none."""
    title = "Example images"
    if view.summary.source == "public":
        return None  # tables without images
    if not view.summary.synthetic:
        reason = "Not shown: a report may be passed on, and the voxels of a patient must not travel with it."
        return Section("images", title, [Text(reason)])
    slices = view.study.slices
    if not slices:
        return Section("images", title, [Text("Not available: the study left no example slices (slices.npz).")])
    views = ("axial", "coronal")
    shown = [m for m in view.modalities if any(f"{m}_{v}" in slices for v in views)]
    if not shown:
        return Section("images", title, [Text("Not available: slices.npz holds no modality of this study.")])
    plot = Plot(
        slice_gallery(shown, slices, views),
        f"Axial and coronal slices of one synthetic subject: {', '.join(shown)}.",
        "One subject of the synthetic cohort, as the model receives it: axial above, coronal below. Each picture has "
        "its own grey scale.",
    )
    return Section("images", title, [plot])


def gaps_section(view: View) -> Section:
    """What went wrong, so that nobody has to ask."""
    summary = view.summary
    items: list[Item] = []
    if summary.failed_cells:
        rows = [[Entry(_cell_name(cell)), Entry(_cell_reason(cell))] for cell in summary.failed_cells]
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


def _cell_name(cell: str | dict[str, Any]) -> str:
    if isinstance(cell, str):
        return cell
    return ", ".join(str(value) for key, value in cell.items() if key not in ("error", "reason"))


def _cell_reason(cell: str | dict[str, Any]) -> str:
    return "" if isinstance(cell, str) else str(cell.get("reason", cell.get("error", "")))
