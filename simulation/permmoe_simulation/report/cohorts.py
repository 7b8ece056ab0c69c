"""Differences as a mean over cohorts, where each regime of a study has patients of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from permmoe.evaluation.figures import difference_figure, mean_over_cohorts
from permmoe.evaluation.intervals import LEVEL, judged_interval, judged_p_value
from permmoe_simulation.report.content import Entry, Fold, Section, Table, Text, interval, number, signed, table_digits
from permmoe_simulation.report.lookups import MEAN
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.studies.verdicts import corrected
from permmoe_simulation.study_tables import OUTCOME_UNIT, StudyTable, tested, text, whole, with_interval

OVER_COHORTS = StudyTable(
    "over_cohorts",
    "the mean over cohorts of the paired difference in RMSE, for a combination (or `mean`); each cohort weighs alike",
    (
        *text("method", "reference", "combination"),
        *whole("cohorts"),
        *whole("n", unit="subjects"),
        *with_interval("difference", unit=OUTCOME_UNIT),
        *tested(),
    ),
)


def over_cohorts_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of OVER_COHORTS; none where the study's regimes are no cohorts.

    A pair that did not finish on every cohort has none. Tests of averages over combinations are corrected together,
    and so are those of single combinations.
    """
    errors, regimes = done.errors, list(done.config.regimes)
    if not done.config.regimes_are_cohorts:
        return pd.DataFrame()
    rows: list[dict[str, Any]] = []
    for method, reference in dict.fromkeys(done.config.pairs):
        if not all((name, regime) in errors.by_method for name in (method, reference) for regime in regimes):
            continue
        for combination in [MEAN, *errors.combinations]:
            figure = mean_over_cohorts(
                [
                    difference_figure(*(errors.squared(name, regime, combination) for name in (method, reference)))
                    for regime in regimes
                ]
            )
            found = judged_interval(figure)
            rows.append({"method": method, "reference": reference, "combination": combination, "cohorts": len(regimes),
                         "n": found.n, "difference": found.estimate, "lower": found.lower, "upper": found.upper,
                         "seeds": found.seeds, "p_value": judged_p_value(figure)})  # fmt: skip
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    families = np.where(table["combination"] == MEAN, "averages", "combinations").tolist()
    return table.assign(p_holm=corrected(table["p_value"].tolist(), families))


def over_cohorts_sentence(view: View) -> str:
    """What the means over cohorts say of the pairs, averaged over combinations; empty without any."""
    rows = view.study.table(OVER_COHORTS)
    if rows is None:
        return ""
    averaged, single = rows[rows["combination"] == MEAN], rows[rows["combination"] != MEAN]
    told = averaged["p_holm"] < LEVEL
    better = [view.label(name) for name in averaged["reference"][told & (averaged["difference"] < 0)]]
    worse = [view.label(name) for name in averaged["reference"][told & (averaged["difference"] > 0)]]
    beaten = int(((single["p_holm"] < LEVEL) & (single["difference"] > 0)).sum())
    won = int(((single["p_holm"] < LEVEL) & (single["difference"] < 0)).sum())
    cohorts, pairs = int(rows["cohorts"].iloc[0]), f"{len(averaged)} pair{'s' * (len(averaged) != 1)}"
    told_of = [f"less than {', '.join(better)}"] * bool(better) + [f"more than {', '.join(worse)}"] * bool(worse)
    found = f"the first method errs {' and '.join(told_of)} beyond chance" if told_of else "nothing is beyond chance"
    return (
        f"All {cohorts} cohorts together, {pairs} averaged over combinations: {found}. With single combinations the "
        f"first method errs less beyond chance in {won} and more in {beaten} of {len(single)}."
    )


def over_cohorts_chapter(view: View) -> list[str]:
    """The means over cohorts as Markdown, averaged over combinations; no line without any."""
    rows = view.study.table(OVER_COHORTS)
    if rows is None:
        return []
    averaged = rows[rows["combination"] == MEAN]
    digits = table_digits(averaged["difference"])
    head = f"| pair, mean over cohorts | difference, {view.unit} | n | p after Holm |"
    lines = [f"{over_cohorts_sentence(view)}\n", head, "|---|---|---|---|"]
    for row in averaged.to_dict("records"):
        between = interval(row["lower"], row["upper"], digits) or "not judged"
        difference = f"{signed(row['difference'], digits)} ({between})"
        difference = f"**{difference}**" if row["p_holm"] < LEVEL else difference
        pair = f"{view.label(row['method'])} − {view.label(row['reference'])}"
        lines.append(f"| {pair} | {difference} | {row['n']} | {_p_value(row['p_holm'])} |")
    return [*lines, ""]


def cohorts_section(view: View) -> Section | None:
    """Nothing where the study's regimes are no cohorts."""
    rows = view.study.table(OVER_COHORTS)
    if rows is None:
        return None
    averaged, single = rows[rows["combination"] == MEAN], rows[rows["combination"] != MEAN]
    return Section(
        "cohorts",
        "All cohorts together",
        [
            Text(over_cohorts_sentence(view)),
            _table(view, averaged, "Averaged over combinations; beyond chance in bold."),
            Fold("By combination", [_table(view, single, "With one combination; beyond chance in bold.")]),
        ],
    )


def _table(view: View, rows: pd.DataFrame, caption: str) -> Table:
    digits = table_digits(rows["difference"])
    lines = [
        [
            Entry(f"{view.label(row['method'])} − {view.label(row['reference'])}"),
            Entry("all" if row["combination"] == MEAN else row["combination"]),
            Entry(str(row["n"])),
            Entry(signed(row["difference"], digits), is_strong=bool(row["p_holm"] < LEVEL)),
            Entry(interval(row["lower"], row["upper"], digits) or "not judged"),
            Entry(_p_value(row["p_holm"])),
        ]
        for row in rows.to_dict("records")
    ]
    head = ["Pair", "Combination", "n", f"Difference, {view.unit}", "95% interval", "p after Holm"]
    return Table(caption, head, lines)


def _p_value(value: float) -> str:
    return number(value, 3) if np.isfinite(value) else "–"


COHORTS_SECTION = ReportSection(cohorts_section, {OVER_COHORTS: over_cohorts_rows})
