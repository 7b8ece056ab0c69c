"""The section on the experts: where tokens go, and the paper's failure signatures.

These are collapsed experts, routers that differ from seed to seed, and errors that drift where modalities are imputed.
"""

from __future__ import annotations

from math import isfinite, nan

import numpy as np
import pandas as pd
from jaxtyping import Float

from permmoe_simulation.report.cells import MEAN, in_order
from permmoe_simulation.report.content import (
    Entry,
    Fold,
    Item,
    Plot,
    Section,
    Table,
    Text,
    count,
    digits_for,
    interval,
    listed,
    number,
    signed,
)
from permmoe_simulation.report.figures import Mark, Panel, Row, activation_map, row_plot
from permmoe_simulation.report.view import View, spread


def experts_section(view: View) -> Section:
    """Which expert gets which tokens, whether some get none, and the other failures that the paper warns of."""
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
        items += [Text(_balance_sentence(view, routing)), _routing_table(view, routing)]
    if activation is not None and not activation.empty:
        items += _consistency_items(view, activation)
    items += _drift_items(view)
    return Section("experts", title, items)


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


def _balance_sentence(view: View, routing: pd.DataFrame) -> str:
    """Load and collapse, over all regimes and seeds."""
    parts = []
    for m in in_order(routing["method"], view.methods):
        of = routing[routing["method"] == m]
        lost = of["collapsed_experts"].astype(float)
        told = "no expert collapsed" if lost.max() == 0 else f"{number(lost.mean(), 1)} experts collapsed"
        parts.append(f"with {view.label(m)} {told} and the load CV is {number(of['load_cv'].astype(float).mean())}")
    return f"On average over {count(len(routing[['regime', 'seed']].drop_duplicates()), 'run')}, {listed(parts)}."


def router_consistency(activation: pd.DataFrame) -> pd.DataFrame:
    """How much routers differ over seeds, by method, regime, combination and modality; without those of one seed.

    `sd`: standard deviation over seeds of an expert's share of the modality's tokens, averaged over experts.
    `relative`: its root mean square over what experts numbered at random would have: 0 where every seed routes alike,
    1 where an expert's number says nothing about it in another seed.
    """
    rows = []
    keys = ["method", "regime", "combination", "modality"]
    for key, of in activation.groupby(keys, sort=False):
        table = of.pivot_table(index="seed", columns="expert", values="share")
        if len(table) < 2:
            continue
        variance = table.var(axis=0, ddof=1)
        at_random = float(table.var(axis=1, ddof=0).mean())
        relative = float(np.sqrt(variance.mean() / at_random)) if at_random > 0 else nan
        is_observed = key[3] in key[2].split("+")
        rows.append({**dict(zip(keys, key, strict=True)), "is_observed": is_observed, "seeds": len(table),
                     "sd": float(np.sqrt(variance).mean()), "relative": relative})  # fmt: skip
    return pd.DataFrame(rows)


def _consistency_told(view: View, found: pd.DataFrame) -> list[str]:
    """A sentence a method, and what follows where every router is as good as numbered at random."""
    sentences = []
    for m in in_order(found["method"], view.methods):
        own = found[found["method"] == m]
        parts = []
        for is_observed, what in ((True, "observed"), (False, "imputed")):
            rows = own[own["is_observed"] == is_observed]
            if len(rows):
                parts.append(f"{number(rows['sd'].mean(), 3)} for {what} modalities ({number(rows['relative'].mean())} "
                             "of what experts numbered at random would give)")  # fmt: skip
        sentences.append(f"With {view.label(m)} an expert's share varies over seeds by {listed(parts)}.")
    near = found.groupby("method")["relative"].mean()
    if (near > 0.9).all():
        sentences.append("So an expert's number says next to nothing about what it does in another seed.")
    return sentences


def expert_sentences(view: View, methods: list[str]) -> list[str]:
    """The failure signatures of some methods, in the first regime."""
    routing, activation = view.study.routing, view.study.activation
    sentences = []
    if routing is not None and not routing.empty:
        sentences.append(_balance_sentence(view, routing[routing["method"].isin(methods)]))
    if activation is not None and not activation.empty:
        chosen = activation[(activation["regime"] == view.regimes[0]) & activation["method"].isin(methods)]
        found = router_consistency(chosen)
        sentences += _consistency_told(view, found) if len(found) else []
    return [*sentences, *filter(None, [drift_sentence(view, view.regimes[0], methods)])]


def _consistency_items(view: View, activation: pd.DataFrame) -> list[Item]:
    found = router_consistency(activation[activation["regime"] == in_order(activation["regime"], view.regimes)[0]])
    if found.empty:
        return []
    regime = str(found["regime"].iloc[0])
    methods = in_order(found["method"], view.methods)
    sentences = _consistency_told(view, found)
    where = f" Regime {regime}." if len(view.regimes) > 1 else ""
    offsets = dict(zip(methods, spread(len(methods)), strict=True))
    panels = []
    rows = view.combination_rows() if view.are_combinations_few else view.size_rows()
    for is_observed, what in ((True, "observed modalities"), (False, "imputed modalities")):
        marks = []
        for m in methods:
            own = found[(found["method"] == m) & (found["is_observed"] == is_observed)]
            for j, names in enumerate(_groups(view)):
                values = own.loc[own["combination"].isin(names), "sd"]
                marks += [Mark(j, v, view.looks[m], offset=offsets[m], is_faint=True) for v in values]
                if len(values):
                    marks.append(Mark(j, float(values.mean()), view.looks[m], offset=offsets[m]))
        panels.append(Panel(what, "SD over seeds of an expert's share", marks))
    plot = Plot(
        row_plot(rows, panels, view.modalities, legend=[(view.label(m), view.looks[m]) for m in methods]),
        f"Dot plot of the spread of expert shares over seeds by combination. {' '.join(sentences)}",
        f"Router variance: standard deviation over {int(found['seeds'].max())} seeds of the share of a modality's "
        "tokens that an expert gets, averaged over experts; a small dot a modality, the large mark their mean. "
        "An expert's number means the same in two seeds only as far as the specialisation loss ties it to a "
        f"combination, and each seed has a split of its own, so zero is out of reach.{where}",
    )
    return [Text(" ".join(sentences)), plot, Fold("Router variance by modality", [_consistency_table(view, found)])]


def _groups(view: View) -> list[list[str]]:
    """The combinations of each row of a figure."""
    if view.are_combinations_few:
        return [[c] for c in view.combinations]
    return [[c for c in view.combinations if view.size(c) == size] for size in view.sizes]


def _consistency_table(view: View, found: pd.DataFrame) -> Table:
    methods = in_order(found["method"], view.methods)
    table = found.set_index(["method", "combination", "modality"])
    rows = []
    for c in in_order(found["combination"], view.combinations):
        entries = []
        for m in methods:
            for modality in view.modalities:
                if (m, c, modality) not in table.index:
                    entries.append(Entry("–", is_quiet=True))
                    continue
                row = table.loc[(m, c, modality)]
                detail = number(float(row["relative"]))
                entries.append(Entry(number(float(row["sd"]), 3), detail, is_quiet=not bool(row["is_observed"])))
        rows.append([Entry(c), *entries])
    return Table(
        "Standard deviation over seeds of an expert's share, averaged over experts, and below it as a share of what "
        "experts numbered at random would give. Grey: the modality was imputed.",
        ["Combination", *(f"{view.label(m)}: {modality}" for m in methods for modality in view.modalities)],
        rows,
    )


def _drift_items(view: View) -> list[Item]:
    """What withholding modalities costs on the same subjects."""
    drift = view.study.drift
    if drift is None or drift.empty or len(view.modalities) < 2:
        return []
    regimes = in_order(drift["regime"], view.regimes)
    blocks = {regime: _drift_block(view, drift[drift["regime"] == regime], regime) for regime in regimes}
    first, *others = regimes
    return [*blocks[first], *(Fold(f"Imputation drift, regime {r}", blocks[r]) for r in others if blocks[r])]


def _drift_block(view: View, drift: pd.DataFrame, regime: str) -> list[Item]:
    methods = _seeing(view, drift)
    if not methods:
        return []
    sentences = [drift_sentence(view, regime, methods)]
    groups = [g for g in _groups(view) if set(g) & set(drift["combination"])]
    lines = [row for row, g in zip(view.combination_rows() if view.are_combinations_few else view.size_rows(),
                                   _groups(view), strict=True) if g in groups]  # fmt: skip
    lines = [Row("mean of all"), *(Row(r.label, r.observed, r.note, j == 0 or r.starts_group)
                                   for j, r in enumerate(lines))]  # fmt: skip
    offsets = dict(zip(methods, spread(len(methods)), strict=True))
    marks = []
    for m in methods:
        own = drift[drift["method"] == m].set_index("combination")
        for j, names in enumerate([[MEAN], *groups]):
            rows = own.loc[[n for n in names if n in own.index]]
            if len(names) > 1:
                marks.append(Mark(j, float(rows["difference"].mean()), view.looks[m], offset=offsets[m]))
                continue
            marks += [Mark(j, r["difference"], view.looks[m], r["lower"], r["upper"], offset=offsets[m])
                      for r in rows.to_dict("records")]  # fmt: skip
    n = int(drift["n"].max())
    label = f"RMSE with the combination − RMSE with all modalities ({view.unit})\n← better without the rest | worse →"
    plot = Plot(
        row_plot(lines, [Panel("", label, marks)], view.modalities, row_height=max(0.27, 0.085 * len(methods) + 0.12),
                 legend=[(view.label(m), view.looks[m]) for m in methods], is_difference=True),
        f"Dot plot of imputation drift by combination. {' '.join(sentences)}",
        f"Imputation drift: RMSE when only the dark modalities are given, minus RMSE when all are, on the same {n} "
        "subjects who have all of them, with paired 95% bootstrap intervals. It holds both what the withheld images "
        "would have told and what their stand-ins get wrong; a method that imputes nothing shows the former alone.",
    )  # fmt: skip
    return [*map(Text, sentences), plot, Fold("Imputation drift as numbers", [_drift_table(view, drift, methods)])]


def _seeing(view: View, drift: pd.DataFrame) -> list[str]:
    """Methods whose error depends on what they are given."""
    largest = drift["difference"].abs().groupby(drift["method"]).max()
    return [m for m in in_order(drift["method"], view.methods) if largest[m] > 0]


def drift_sentence(view: View, regime: str, methods: list[str]) -> str:
    """What the methods lose, in one regime, when modalities are withheld; empty where nobody has all of them."""
    drift = view.study.drift
    if drift is None or drift.empty:
        return ""
    drift = drift[(drift["regime"] == regime) & drift["method"].isin(methods)]
    seeing = _seeing(view, drift) if len(drift) else []
    if not seeing:
        return ""
    where = f"In regime {regime}, with" if len(view.regimes) > 1 else "With"
    told = "; ".join(_drift_told(view, drift[drift["method"] == m], m) for m in seeing)
    return f"{where} modalities withheld from subjects who have all of them, RMSE changes: {told}."


def _drift_told(view: View, drift: pd.DataFrame, method: str) -> str:
    single = drift[drift["combination"] != MEAN].dropna(subset=["difference"])
    mean = drift[drift["combination"] == MEAN].iloc[0]
    worst = single.loc[single["difference"].idxmax()]
    digits = digits_for(float(mean["difference"]))
    return (
        f"{view.label(method)} {signed(mean['difference'], digits)} {view.unit} averaged over combinations (95% "
        f"interval {interval(mean['lower'], mean['upper'], digits)}, n = {int(mean['n'])}), worse beyond chance in "
        f"{int((single['lower'] > 0).sum())} of {count(len(single), 'combination')}, most with {worst['combination']} "
        f"({signed(worst['difference'], digits_for(worst['difference']))})"
    )


def _drift_table(view: View, drift: pd.DataFrame, methods: list[str]) -> Table:
    table = drift.set_index(["method", "combination"])
    rows = []
    for c in [MEAN, *view.combinations[:-1]]:
        entries = []
        for m in methods:
            if (m, c) not in table.index or not isfinite(table.loc[(m, c), "difference"]):
                entries.append(Entry("–", is_quiet=True))
                continue
            row = table.loc[(m, c)]
            strong = bool(row["lower"] > 0 or row["upper"] < 0)
            entries.append(Entry(signed(row["difference"], 3), interval(row["lower"], row["upper"], 3), strong))
        numbers = {int(n) for (_, name), n in table["n"].items() if name == c}
        rows.append([Entry("mean of all" if c == MEAN else c), Entry(" / ".join(map(str, sorted(numbers)))), *entries])
    return Table(
        f"RMSE with the combination minus RMSE with all modalities, in {view.unit}, with paired 95% intervals. Bold: "
        "the interval excludes zero.",
        ["Combination", "n", *map(view.label, methods)],
        rows,
    )
