"""The section on the experts: where tokens go, and the paper's failure signatures.

These are collapsed experts, routers that differ from seed to seed, and errors that drift where modalities are imputed.
"""

from __future__ import annotations

from math import nan

import numpy as np
import pandas as pd
from jaxtyping import Float

from permmoe.modality import all_combinations, combination_name
from permmoe_simulation.report.content import Entry, Fold, Item, Plot, Section, Table, Text, count, listed, number
from permmoe_simulation.report.drift import DRIFT, drift_items, drift_rows, drift_sentence
from permmoe_simulation.report.figures import Mark, Panel, Row, row_plot
from permmoe_simulation.report.heat_maps import activation_map
from permmoe_simulation.report.lookups import in_order
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View, spread
from permmoe_simulation.studies.cell_files import ACTIVATION as ACTIVATION_FILE
from permmoe_simulation.studies.cell_files import FinishedCell
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.study_tables import CELL, StudyTable, real, text, whole

ACTIVATION = StudyTable(
    "activation",
    "the share of a modality's tokens that an expert gets with a combination, in cells with the study's modalities",
    (*CELL, *text("combination", "modality"), *whole("expert"), *real("share")),
)
ROUTING = StudyTable(
    "routing",
    "how evenly the experts of a cell's model are loaded, and how many get less than 1% of the tokens",
    (*CELL, *real("load_cv"), *whole("collapsed_experts")),
)


def activation_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of ACTIVATION, without shares that are NaN because no visit has the combination."""
    names = list(done.config.model.names)
    combinations = [combination_name(c) for c in all_combinations(names)]
    tables = []
    for cell in done.cells:
        share = _saved(cell, "share")
        if share is None or cell.modality_names() != names:
            continue
        index = pd.MultiIndex.from_product(
            [combinations, names, range(share.shape[2])], names=["combination", "modality", "expert"]
        )
        rows = pd.DataFrame({"share": share.ravel()}, index=index).dropna().reset_index()
        tables.append(pd.DataFrame([cell.key] * len(rows)).join(rows))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def routing_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of ROUTING, for the cells whose models have experts."""
    rows = []
    for cell in done.cells:
        load_cv, collapsed = _saved(cell, "load_cv"), _saved(cell, "collapsed")
        if load_cv is not None and collapsed is not None:
            rows.append({**cell.key, "load_cv": float(load_cv), "collapsed_experts": int(collapsed)})
    return pd.DataFrame(rows)


def _saved(cell: FinishedCell, name: str) -> np.ndarray | None:
    """An array of the activation that the cell kept; None where it kept none."""
    path = cell.folder / ACTIVATION_FILE
    if not path.exists():
        return None
    with np.load(path) as saved:
        return np.asarray(saved[name])


def experts_section(view: View) -> Section:
    """Which expert gets which tokens, whether some get none, and the other failures that the paper warns of."""
    activation, routing = view.study.table(ACTIVATION), view.study.table(ROUTING)
    title = "Which expert works"
    items: list[Item] = []
    if activation is None:
        items.append(Text("Activation maps are not available: the study left none (activation.csv)."))
    else:
        # PerM-MoE itself before its rivals, whatever the order of the summary.
        methods = sorted(
            in_order(activation["method"], view.methods), key=lambda m: "perm-moe" not in view.label(m).lower()
        )
        plots = [_activation_plot(view, activation, m) for m in methods]
        items.append(plots[0])
        items += [Fold(f"Activation: {view.label(m)}", [p]) for m, p in zip(methods[1:], plots[1:], strict=True)]
    if routing is None:
        items.append(Text("Load balance is not available: the study left none (routing.csv)."))
    else:
        items += [Text(_balance_sentence(view, routing)), _routing_table(view, routing)]
    if activation is not None:
        items += _consistency_items(view, activation)
    items += drift_items(view)
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
    phrases = []
    for modality, table in shares.items():
        if np.isfinite(table).any():
            means = np.nan_to_num(table).mean(0)
            phrases.append(
                f"{modality} mostly to expert {experts[int(means.argmax())]} ({number(100 * means.max(), 0)}%)"
            )
    return phrases


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
        own = routing[routing["method"] == m]
        lost = own["collapsed_experts"].astype(float)
        phrases = "no expert collapsed" if lost.max() == 0 else f"{number(lost.mean(), 1)} experts collapsed"
        parts.append(f"with {view.label(m)} {phrases} and the load CV is {number(own['load_cv'].astype(float).mean())}")
    return f"On average over {count(len(routing[['regime', 'seed']].drop_duplicates()), 'run')}, {listed(parts)}."


def router_consistency(activation: pd.DataFrame) -> pd.DataFrame:
    """How much routers differ over seeds, by method, regime, combination and modality; without those of one seed.

    `sd`: standard deviation over seeds of an expert's share of the modality's tokens, averaged over experts.
    `relative`: its root mean square over what experts numbered at random would have: 0 where every seed routes alike,
    1 where an expert's number says nothing about it in another seed.
    """
    rows = []
    keys = ["method", "regime", "combination", "modality"]
    for key, own in activation.groupby(keys, sort=False):
        table = own.pivot_table(index="seed", columns="expert", values="share")
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
    routing, activation = view.study.table(ROUTING), view.study.table(ACTIVATION)
    sentences = []
    if routing is not None:
        sentences.append(_balance_sentence(view, routing[routing["method"].isin(methods)]))
    if activation is not None:
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
            for j, names in enumerate(view.groups()):
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


EXPERTS = ReportSection(experts_section, {ACTIVATION: activation_rows, ROUTING: routing_rows, DRIFT: drift_rows})
