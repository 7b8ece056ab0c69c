"""The section that says of every model whether it beats what is known of a patient without its images."""

from __future__ import annotations

import pandas as pd

from permmoe_simulation.report.content import Entry, Fold, Item, Section, Table, Text, interval, signed, table_digits
from permmoe_simulation.report.lookups import MEAN, in_order
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.studies.ladder import column_facts
from permmoe_simulation.studies.ladder_results import HeldAgainstLadder, from_table
from permmoe_simulation.study_tables import LADDER, StudyTable, text, whole

LADDER_COLUMNS = StudyTable(
    "ladder_columns",
    "a column that the ladder's references may read, how many visits of the first cell have it, and why it is left out",
    (*text("column"), *whole("measured", "visits", unit="visits"), *text("left_out")),
)
RULE = (
    "The ladder's top is the clinical reference with the lowest RMSE on the same test subjects. A model beats it where "
    "it is better than every reference of the ladder, each beyond chance over training seeds, splits and subjects, "
    "after Holm's correction over all models and regimes of the ladder."
)


def ladder_column_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of LADDER_COLUMNS; none without a ladder."""
    if done.config.ladder is None:
        return pd.DataFrame()
    return pd.DataFrame(
        [
            {"column": fact.column, "measured": fact.measured, "visits": fact.visits, "left_out": fact.left_out}
            for fact in column_facts(done.config.ladder, done.visits)
        ]
    )


def ladder_section(view: View) -> Section | None:
    """Nothing for a study without a ladder."""
    sentences, rows = view.summary.ladder, view.study.table(LADDER)
    if not sentences:
        return None
    items: list[Item] = [*map(Text, sentences), Text(RULE)]
    if rows is not None:
        held = from_table(rows)
        items.append(_table(view, [one for one in held if one.combination == MEAN], "averaged over combinations"))
        single = [one for one in held if one.combination != MEAN]
        if single:
            items.append(Fold("Against the ladder by combination", [_table(view, single, "for each combination")]))
    columns = view.study.table(LADDER_COLUMNS)
    if columns is not None:
        items.append(Fold("What the clinical references read", [_columns(columns)]))
    return Section("ladder", "Against clinical references alone", items)


def _table(view: View, held: list[HeldAgainstLadder], where: str) -> Table:
    digits = table_digits(one.difference for one in held)
    several = len({one.regime for one in held}) > 1
    is_single = any(one.combination != MEAN for one in held)
    entries = []
    for regime in in_order([one.regime for one in held], view.regimes):
        for one in held:
            if one.regime != regime:
                continue
            names = [view.label(one.method), *([one.combination] if is_single else []), *([regime] if several else [])]
            entries.append(
                [
                    Entry(", ".join(names)),
                    Entry(view.label(one.top)),
                    Entry(str(one.n)),
                    Entry(signed(one.difference, digits), interval(one.lower, one.upper, digits)),
                    Entry(one.outcome, one.why_not_judged, is_strong=one.outcome == "beats"),
                ]
            )
    return Table(
        f"RMSE of a model minus that of the ladder's top, {where}, in {view.unit}, {view.intervals}; below zero the "
        "model errs less.",
        ["Model", "The ladder's top", "n", "Difference", "Beyond chance"],
        entries,
    )


def _columns(columns: pd.DataFrame) -> Table:
    rows = [
        [Entry(str(row["column"])), Entry(f"{int(row['measured'])} of {int(row['visits'])}"),
         Entry("left out: " + str(row["left_out"]) if pd.notna(row["left_out"]) else "read")]
        for row in columns.to_dict("records")
    ]  # fmt: skip
    return Table(
        "The columns of the ladder beside the score at the visit: how many visits of the first regime and seed have "
        "each, and why the references learn nothing from one.",
        ["Column", "Visits that have it", "Clinical references"],
        rows,
    )


LADDER_SECTION = ReportSection(ladder_section, {LADDER_COLUMNS: ladder_column_rows})
