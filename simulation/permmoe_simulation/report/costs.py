"""What a round costs: bytes and seconds, by site and by what they went to."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, nan

import numpy as np
import pandas as pd

from permmoe_simulation.report.bars import Bars, site_bars
from permmoe_simulation.report.content import (
    Entry,
    Fold,
    Item,
    Plot,
    Section,
    Table,
    Text,
    amount,
    count,
    duration,
    number,
)
from permmoe_simulation.report.lookups import in_order
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View
from permmoe_simulation.studies.cell_files import gathered
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.study_tables import ROUNDS

DOWN, UP, TRAIN, OVERHEAD = "#56b4e9", "#0072b2", "#009e73", "#c9ced4"
ROUND_SPLIT = {
    "training": "Training",
    "site": "Sites: read, check, write",
    "write": "Server: write",
    "add": "Server: check, add, step",
    "evaluate": "Evaluation",
    "wire": "Wire and waiting",
}


def round_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of ROUNDS, as the cells kept them."""
    return gathered(done.cells, ROUNDS)


def costs_section(view: View) -> Section:
    """Bytes and seconds of a round, site by site."""
    rounds = view.study.table(ROUNDS)
    title = "What a round costs"
    if rounds is None:
        return Section("costs", title, [Text("Not available: the study left no record of rounds (rounds.csv).")])
    # A site whose reply was left out has no name here, so that its costs belong to no row.
    rounds = rounds[rounds["site"].notna()]
    methods = in_order(rounds["method"], view.methods)
    blocks = {m: _cost_items(view, rounds[rounds["method"] == m], m) for m in methods}
    first, *others = methods
    folds = [Fold(f"By site: {view.label(m)}", blocks[m]) for m in others]
    return Section(
        "costs",
        title,
        [
            Text(_cost_sentence(view, rounds, methods)),
            *_round_split(view, rounds, methods),
            *blocks[first],
            *folds,
            _cost_table(view, rounds, methods),
        ],
    )


def round_split(rounds: pd.DataFrame) -> dict[str, float]:
    """Mean seconds of a round by what they went to, over the rounds whose parts are known; empty without such rounds.

    The seconds of sites that took turns add up. Where they add up to more than the round, the sites worked at once, and
    those of the busiest site count.
    """
    # A version that did not keep them apart, or a round of simulated time beside parts of this machine's.
    if "write_seconds" not in rounds or "staleness" in rounds:
        return {}
    parts = []
    for _, own in rounds.groupby(["method", "regime", "seed", "round"], sort=False):
        once = own.iloc[0]
        sites = own[["train_seconds", "overhead_seconds", "server_seconds"]]
        total = float(once["round_seconds"])
        if not float(sites["train_seconds"].sum()):
            continue  # a secure sum hides the sites' times
        if float(sites.sum().sum()) > total:
            training, site = sites.loc[sites.iloc[:, :2].sum(axis=1).idxmax()].iloc[:2]
        else:
            training, site, _ = sites.sum()
        known = {
            "training": float(training),
            "site": float(site),
            "write": float(once["write_seconds"]),
            "add": float(sites["server_seconds"].sum() + once["step_seconds"]),
            "evaluate": float(once["evaluate_seconds"]),
        }
        parts.append({**known, "wire": max(total - sum(known.values()), 0.0)})
    return {name: float(np.mean([part[name] for part in parts])) for name in ROUND_SPLIT} if parts else {}


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
    """How many bytes a site has to move in a round, by method."""
    parts = []
    for m in methods:
        own = rounds[rounds["method"] == m]
        down, up = (amount(float(own[c].mean())) for c in ("bytes_down", "bytes_up"))
        parts.append(f"{down} down and {up} up with {view.label(m)}")
    return f"In a round a site moves, on average: {'; '.join(parts)}."


def _round_split(view: View, rounds: pd.DataFrame, methods: list[str]) -> list[Item]:
    rows, sentence = [], ""
    for m in methods:
        split = round_split(rounds[rounds["method"] == m])
        total = sum(split.values())
        if not total:
            continue
        shares = {name: f"{number(100 * seconds / total, 0)}%" for name, seconds in split.items()}
        sentence = sentence or (
            f"Of a round of {view.label(m)}, {number(1e3 * total, 0)} ms with all sites on one machine, training "
            f"takes {shares['training']}, sites' other work {shares['site']}, the server's {_added(split, total)}, "
            f"evaluation {shares['evaluate']}, and wire and waiting {shares['wire']}."
        )
        entries = [Entry(f"{number(1e3 * s, 1)} ({shares[name]})") for name, s in split.items()]
        rows.append([Entry(view.label(m)), Entry(number(1e3 * total, 0)), *entries])
    if not rows:
        return []
    caption = "Where a round's time goes, in milliseconds, on average over rounds, seeds and regimes."
    return [Text(sentence), Fold(caption, [Table(caption, ["Method", "Round", *ROUND_SPLIT.values()], rows)])]


def _added(split: Mapping[str, float], total: float) -> str:
    return f"{number(100 * (split['write'] + split['add']) / total, 0)}%"


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


ROUND_COSTS = ReportSection(costs_section, {ROUNDS: round_rows})
