"""The section on training: RMSE on validation visits after each round or epoch."""

from __future__ import annotations

from math import isfinite, nan

import numpy as np
import pandas as pd

from permmoe_simulation.report.content import Item, Plot, Section, Text, number
from permmoe_simulation.report.curves import Curve, learning_curves
from permmoe_simulation.report.lookups import MEAN, in_order
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.style import MUTED, Look
from permmoe_simulation.report.view import View, by_regime
from permmoe_simulation.studies.cell_files import gathered
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.study_tables import LEARNING


def learning_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of LEARNING, as the cells kept them."""
    return gathered(done.cells, LEARNING)


def learning_section(view: View) -> Section:
    """RMSE on validation visits while training."""
    learning = view.study.table(LEARNING)
    title = "Learning"
    if learning is None:
        return Section("learning", title, [Text("Not available: the study left no learning curves (learning.csv).")])
    return Section("learning", title, by_regime(view, lambda regime: _learning_items(view, learning, regime)))


def _learning_items(view: View, learning: pd.DataFrame, regime: str) -> list[Item]:
    rows = learning[learning["regime"] == regime]
    rows = rows[rows["combination"] == MEAN] if (rows["combination"] == MEAN).any() else rows
    panels = []
    for step_kind in in_order(rows["step_kind"], ("round", "epoch")):
        curves = []
        for m in in_order(rows.loc[rows["step_kind"] == step_kind, "method"], view.methods):
            chosen = rows[(rows["step_kind"] == step_kind) & (rows["method"] == m)]
            seeds = [
                (steps.index.astype(float).tolist(), steps.astype(float).tolist())
                for _, group in chosen.groupby("seed")
                for steps in [group.groupby("step")["rmse"].mean()]
            ]
            curves.append(Curve(view.label(m), view.looks.get(m, Look(MUTED)), seeds))
        panels.append((step_kind, curves))
    if not panels:
        return [Text(f"Not available for regime {regime}.")]
    ends = {c.label: end for _, curves in panels for c in curves if isfinite(end := _end(c))}
    best, *others = sorted(ends, key=lambda name: ends[name]) or [""]
    lowest = f"{best} ends with the lowest validation RMSE, {number(ends.get(best), 3)} {view.unit}"
    span = f"the others between {number(ends[others[0]], 3)} and {number(ends[others[-1]], 3)}" if others else ""
    if len(others) == 1:
        span = f"{others[0]} with {number(ends[others[0]], 3)}"
    sentence = [Text(f"{lowest}; {span}.")] if others else []
    return [
        *sentence,
        Plot(
            learning_curves(panels, view.unit),
            "Validation RMSE by training step: "
            + "; ".join(f"{c.label}, {_course(c)}" for _, curves in panels for c in curves)
            + ".",
            "RMSE on validation visits, averaged over combinations: a thin line for each seed, a thick one for the "
            "mean over seeds. A federated round and a central epoch are different amounts of work, so compare end "
            "levels and shapes, not speed.",
        ),
    ]


def _end(curve: Curve) -> float:
    """The last validation RMSE, averaged over seeds."""
    last = [values[-1] for _, values in curve.seeds if len(values)]
    return float(np.mean(last)) if last else nan


def _course(curve: Curve) -> str:
    ends = [(values[0], values[-1]) for _, values in curve.seeds if len(values)]
    if not ends:
        return "no figure"
    first, last = np.mean([e[0] for e in ends]), np.mean([e[1] for e in ends])
    return f"from {number(float(first))} to {number(float(last))}"


LEARNING_SECTION = ReportSection(learning_section, {LEARNING: learning_rows})
