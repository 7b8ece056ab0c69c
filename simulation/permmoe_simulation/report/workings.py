"""The sections that show what happened inside: who has what, which expert works, what it costs, how to repeat it."""

from __future__ import annotations

from math import isfinite, nan
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

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
from permmoe_simulation.report.figures import Bars, Row, activation_map, site_bars, slice_gallery
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


def experts_section(view: View) -> Section:
    """Which expert gets which tokens, and whether some get none."""
    activation, routing = view.study.activation, view.study.routing
    title = "Which expert works"
    items: list[Item] = []
    if activation is None or activation.empty:
        items.append(Text("Activation maps are not available: the study left none (activation.csv)."))
    else:
        # PerM-MoE itself before its rivals, whatever the order of the summary.
        methods = sorted(
            in_order(activation["method"], view.methods), key=lambda m: "perm-moe" not in view.label(m).lower()
        )
        plots = [_activation_plot(view, activation, m) for m in methods]
        items.append(plots[0])
        items += [Fold(f"Activation: {view.label(m)}", [p]) for m, p in zip(methods[1:], plots[1:], strict=True)]
    if routing is None or routing.empty:
        items.append(Text("Load balance is not available: the study left none (routing.csv)."))
    else:
        items.append(_routing_table(view, routing))
    return Section("experts", title, items)


def costs_section(view: View) -> Section:
    """Bytes and seconds of a round, site by site."""
    rounds = view.study.rounds
    title = "What a round costs"
    if rounds is None or rounds.empty:
        return Section("costs", title, [Text("Not available: the study left no record of rounds (rounds.csv).")])
    methods = in_order(rounds["method"], view.methods)
    blocks = {m: _cost_items(view, rounds[rounds["method"] == m], m) for m in methods}
    first, *others = methods
    folds = [Fold(f"By site: {view.label(m)}", blocks[m]) for m in others]
    return Section("costs", title, [*blocks[first], *folds, _cost_table(view, rounds, methods)])


def images_section(view: View) -> Section:
    """What the model sees: shown for synthetic images only."""
    title = "Example images"
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


def _activation_plot(view: View, activation: pd.DataFrame, method: str) -> Plot:
    rows = activation[activation["method"] == method]
    regime, seed = str(rows["regime"].iloc[0]), str(rows["seed"].iloc[0])
    rows = rows[(rows["regime"] == regime) & (rows["seed"] == seed)]
    experts = sorted(in_order(rows["expert"]), key=lambda e: (len(e), e))
    known = in_order(rows["combination"])
    if view.are_combinations_few:
        lines = [row for row in view.combination_rows() if row.label in known]
        groups = [[row.label] for row in lines]
        what = "Rows are combinations"
    else:
        lines = view.size_rows()
        groups = [[c for c in view.combinations if view.size(c) == size] for size in view.sizes]
        what = "Rows are averages over the combinations of a size"
    shares = {m: _shares(rows[rows["modality"] == m], groups, experts) for m in view.modalities}
    return Plot(
        activation_map(lines or [Row("none")], view.modalities, shares, experts),
        f"Heat maps of expert activation for {view.label(method)}: {'; '.join(_busiest(shares, experts))}.",
        f"{view.label(method)}, seed {seed}{f', regime {regime}' if len(view.regimes) > 1 else ''}. Each panel shows "
        f"where one modality's tokens go; every line adds up to one. {what}; where a row lacks the panel's modality, "
        "the tokens come from the missing bank. A dark column is an expert that serves every combination alike.",
    )


def _shares(rows: pd.DataFrame, groups: list[list[str]], experts: list[str]) -> Float[np.ndarray, "row expert"]:
    """Share of tokens by group of combinations and expert, averaged within a group; NaN where there is none."""
    table = np.full((max(1, len(groups)), max(1, len(experts))), nan)
    expert_of = {name: j for j, name in enumerate(experts)}
    for i, group in enumerate(groups):
        chosen = rows[rows["combination"].isin(group)]
        for expert, share in chosen.groupby("expert")["share"].mean().items():
            table[i, expert_of[str(expert)]] = share
    return table


def _busiest(shares: dict[str, Float[np.ndarray, "row expert"]], experts: list[str]) -> list[str]:
    told = []
    for modality, table in shares.items():
        if np.isfinite(table).any():
            means = np.nan_to_num(table).mean(0)
            told.append(f"{modality} mostly to expert {experts[int(means.argmax())]} ({number(100 * means.max(), 0)}%)")
    return told


def _routing_table(view: View, routing: pd.DataFrame) -> Table:
    rows = []
    for m in in_order(routing["method"], view.methods):
        for regime in in_order(routing["regime"], view.regimes):
            chosen = routing[(routing["method"] == m) & (routing["regime"] == regime)]
            if chosen.empty:
                continue
            load, lost = chosen["load_cv"].astype(float), chosen["collapsed_experts"].astype(float)
            name = view.label(m) + (f" ({regime})" if len(view.regimes) > 1 else "")
            rows.append(
                [
                    Entry(name),
                    Entry(str(chosen["seed"].nunique())),
                    Entry(number(load.mean()), _extent(load, 2)),
                    Entry(number(lost.mean(), 1), _extent(lost, 0)),
                ]
            )
    return Table(
        "Balance of the experts: mean over seeds, with the lowest and highest below. A load CV of 0 is an even load; a "
        "collapsed expert receives less than 1% of the tokens.",
        ["Method", "Seeds", "Load CV", "Collapsed experts"],
        rows,
    )


def _extent(values: pd.Series[float], digits: int) -> str:
    if values.notna().sum() < 2:
        return ""
    return f"{number(float(values.min()), digits)} to {number(float(values.max()), digits)}"


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
