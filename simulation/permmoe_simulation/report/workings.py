"""The sections that show what happened inside: who has what, which expert works, what it costs, how to repeat it."""

from __future__ import annotations

from math import isfinite, nan
from typing import Any

import pandas as pd

from permmoe_simulation.report.cells import in_order
from permmoe_simulation.report.content import (
    Entry,
    Fold,
    Item,
    Listing,
    Plot,
    Section,
    Table,
    Text,
    amount,
    count,
    duration,
    number,
)
from permmoe_simulation.report.figures import Bars, site_bars, slice_gallery
from permmoe_simulation.report.view import View

DOWN, UP, TRAIN, OVERHEAD = "#56b4e9", "#0072b2", "#009e73", "#c9ced4"


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


def costs_section(view: View) -> Section:
    """Bytes and seconds of a round, site by site."""
    rounds = view.study.rounds
    title = "What a round costs"
    if rounds is None or rounds.empty:
        return Section("costs", title, [Text("Not available: the study left no record of rounds (rounds.csv).")])
    # A site whose reply was left out has no name here; what it cost is not told by site.
    rounds = rounds[rounds["site"].notna()]
    methods = in_order(rounds["method"], view.methods)
    blocks = {m: _cost_items(view, rounds[rounds["method"] == m], m) for m in methods}
    first, *others = methods
    folds = [Fold(f"By site: {view.label(m)}", blocks[m]) for m in others]
    return Section(
        "costs",
        title,
        [Text(_cost_sentence(view, rounds, methods)), *blocks[first], *folds, _cost_table(view, rounds, methods)],
    )


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


def _cost_items(view: View, rows: pd.DataFrame, method: str) -> list[Item]:
    regime = str(rows["regime"].iloc[0])
    rows = rows[rows["regime"] == regime]
    sites = in_order(rows["site"])
    columns = ["bytes_down", "bytes_up", "train_seconds", "overhead_seconds", "modules"]
    means = rows.groupby("site", sort=False)[columns].mean().reindex(sites)
    largest = float(means[["bytes_down", "bytes_up"]].to_numpy().max(initial=0.0))
    unit, size = next(((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if largest >= s), ("B", 1.0))
    down, up = ((means[c] / size).tolist() for c in ("bytes_down", "bytes_up"))
    train, overhead = (means[c].tolist() for c in ("train_seconds", "overhead_seconds"))
    panels = [
        Bars(f"{unit} a round", [("down, to the site", DOWN, down)], largest / size),
        Bars(f"{unit} a round", [("up, from the site", UP, up)], largest / size),
        Bars("seconds a round", [("training", TRAIN, train), ("overhead", OVERHEAD, overhead)]),
    ]
    n_rounds, n_seeds = rows["round"].nunique(), rows["seed"].nunique()
    caption = (
        f"{view.label(method)}{f', regime {regime}' if len(view.regimes) > 1 else ''}: what each site receives (down) "
        f"and sends (up), and its time, in a round, on average over {count(n_rounds, 'round')} and "
        f"{count(n_seeds, 'seed')}. "
        "Overhead is all of a site's round but the training itself."
    )
    table = Table(
        "The same by site, with the number of modules that a site sends in a round.",
        ["Site", "Down", "Up", "Training (s)", "Overhead (s)", "Modules"],
        [
            [
                Entry(site),
                Entry(amount(float(line["bytes_down"]))),
                Entry(amount(float(line["bytes_up"]))),
                Entry(number(float(line["train_seconds"]))),
                Entry(number(float(line["overhead_seconds"]))),
                Entry(number(float(line["modules"]), 1)),
            ]
            for site, line in zip(sites, means.to_dict("records"), strict=True)
        ],
    )
    alt = f"Bars of bytes and seconds a round at {count(len(sites), 'site')}; the folded table has the numbers."
    return [Plot(site_bars(sites, panels), alt, caption), Fold(f"By site as numbers: {view.label(method)}", [table])]


def _cost_sentence(view: View, rounds: pd.DataFrame, methods: list[str]) -> str:
    """What a site has to move in a round, by method."""
    parts = []
    for m in methods:
        of = rounds[rounds["method"] == m]
        down, up = (amount(float(of[c].mean())) for c in ("bytes_down", "bytes_up"))
        parts.append(f"{down} down and {up} up with {view.label(m)}")
    return f"In a round a site moves, on average: {'; '.join(parts)}."


def _cost_table(view: View, rounds: pd.DataFrame, methods: list[str]) -> Table:
    rows = []
    for m in methods:
        chosen = rounds[rounds["method"] == m]
        runs = max(1, len(chosen[["regime", "seed"]].drop_duplicates()))
        train, overhead = float(chosen["train_seconds"].sum()), float(chosen["overhead_seconds"].sum())
        share = overhead / (train + overhead) if train + overhead > 0 else nan
        rows.append(
            [
                Entry(view.label(m)),
                Entry(str(chosen["round"].nunique())),
                Entry(amount(float(chosen["bytes_down"].sum()) / runs)),
                Entry(amount(float(chosen["bytes_up"].sum()) / runs)),
                Entry(duration((train + overhead) / runs)),
                Entry(f"{number(100 * share, 0)}%" if isfinite(share) else "–"),
            ]
        )
    return Table(
        "A whole run, summed over sites and rounds, on average over seeds and regimes.",
        ["Method", "Rounds", "Down", "Up", "Site time", "of it overhead"],
        rows,
    )


def _cell_name(cell: str | dict[str, Any]) -> str:
    if isinstance(cell, str):
        return cell
    return ", ".join(str(value) for key, value in cell.items() if key not in ("error", "reason"))


def _cell_reason(cell: str | dict[str, Any]) -> str:
    return "" if isinstance(cell, str) else str(cell.get("reason", cell.get("error", "")))
