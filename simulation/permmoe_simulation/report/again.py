"""The main method against itself (A/A): how often the report's own rule calls two trainings of one method different.

A method is trained twice on the same splits, with other training seeds. In every split either training may be called
the first, so that two trainings with S seeds are 2^(S−1) comparisons of a method with itself, all of equal right.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

from permmoe.evaluation.figures import Figure, difference_figure
from permmoe.evaluation.intervals import FEWEST_SEEDS, LEVEL, judged_interval, judged_p_value, why_not_judged
from permmoe_simulation.report.content import Entry, Fold, Section, Table, Text, count, interval, number, signed
from permmoe_simulation.report.lookups import MEAN, in_order
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.studies.verdicts import corrected
from permmoe_simulation.study_tables import StudyTable, real, tested, text, whole, with_interval

MOST_RELABELLINGS = 64
"""Of more, as many are drawn: ten seeds have 512."""

AGAIN = StudyTable(
    "again",
    "a method against its own second training, for a combination (or `mean`), and how often the two are told apart",
    (
        *text("method", "regime", "combination"),
        *whole("n", unit="subjects"),
        *with_interval("difference"),
        *tested(),
        *whole("comparisons"),
        *real("called", "called_after_holm", unit="share of the comparisons"),
    ),
)


def again_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of AGAIN; none where no method was trained twice.

    `called` is the share of comparisons below 5% each by itself, `called_after_holm` that of those which stay there
    when all combinations and regimes are corrected together, single combinations and averages each.
    """
    first, second, twins = done.config.trained_again, done.config.name_trained_again, done.twins
    if first is None or twins is None:
        return pd.DataFrame()
    keys, figures = [], []
    for _, _, regime in twins.finished([(first, second)]):
        for combination in [MEAN, *twins.combinations]:
            own, other = (twins.squared(name, regime, combination) for name in (first, second))
            figure = difference_figure(own, other)
            if figure.n:
                keys.append((regime, combination))
                figures.append(figure)
    if not figures:
        return pd.DataFrame()
    families = ["averages" if combination == MEAN else "combinations" for _, combination in keys]
    tests = [[judged_p_value(relabelled(one, signs)) for one in figures] for signs in relabellings(len(twins.seeds))]
    holm = np.array([corrected(row, families) for row in tests])
    rows = []
    for j, ((regime, combination), figure) in enumerate(zip(keys, figures, strict=True)):
        found = judged_interval(figure)
        is_judged = not why_not_judged(found.n, found.seeds)
        called = (np.array(tests)[:, j] < LEVEL, holm[:, j] < LEVEL)
        rows.append({"method": first, "regime": regime, "combination": combination, "n": found.n,
                     "difference": found.estimate, "lower": found.lower, "upper": found.upper, "seeds": found.seeds,
                     "p_value": tests[0][j], "p_holm": holm[0, j], "comparisons": len(tests) if is_judged else 0,
                     "called": called[0].mean() if is_judged else np.nan,
                     "called_after_holm": called[1].mean() if is_judged else np.nan})  # fmt: skip
    return pd.DataFrame(rows)


def relabellings(seeds: int) -> list[tuple[int, ...]]:
    """Which training is called the first in each split: 1 or −1. The first has all as they are, no two are mirrored."""
    if seeds - 1 <= np.log2(MOST_RELABELLINGS):
        return [(1, *rest) for rest in product((1, -1), repeat=seeds - 1)]
    generator = np.random.default_rng(0)
    drawn: dict[tuple[int, ...], None] = {(1,) * seeds: None}
    while len(drawn) < MOST_RELABELLINGS:
        drawn[(1, *(int(sign) for sign in generator.choice((1, -1), seeds - 1)))] = None
    return list(drawn)


def relabelled(difference: Figure, signs: tuple[int, ...]) -> Figure:
    """The difference with the two trainings exchanged wherever the sign is −1."""
    sign = np.array(signs, dtype=np.float64)
    return Figure(sign * difference.by_seed, sign[:, None] * difference.influence, difference.known, difference.tested)


def again_section(view: View) -> Section | None:
    """Nothing for a study that compares nothing; why not, for one that trained no method twice."""
    title = "The main method against itself"
    again = view.study.table(AGAIN)
    if again is None:
        seeds = len(view.summary.seeds)
        if not view.summary.goals and len(view.methods) < 2:
            return None
        why = (
            f"with {count(seeds, 'training seed')}, fewer than {FEWEST_SEEDS}, nothing is judged, and so no judgement "
            "can be false"
            if seeds < FEWEST_SEEDS
            else "the study has no second training of a method that it compares"
        )
        return Section("again", title, [Text(f"Not available: {why}.")])
    rows = again[again["comparisons"] > 0]
    method = str(again["method"].iloc[0])
    if rows.empty:
        return Section("again", title, [Text(f"{view.label(method)} was trained twice, and no comparison was judged.")])
    return Section("again", title, [Text(_sentence(view, method, rows)), Fold("By combination", [_table(view, rows)])])


def _sentence(view: View, method: str, rows: pd.DataFrame) -> str:
    labels, tests = int(rows["comparisons"].max()), int(rows["comparisons"].sum())
    alone, holm = rows["called"].mean(), rows["called_after_holm"].mean()
    return (
        f"{view.label(method)} was trained a second time on the same splits with other training seeds. By the rule of "
        f"this page the two trainings differ in {number(100 * alone, 1)}% of {tests:,} comparisons taken one by one, "
        f"and in {number(100 * holm, 1)}% after Holm's correction; a sound rule stays near 5% and below it. The "
        f"comparisons are {count(len(rows), 'figure')}, {labels} times each: in every split either training may be "
        "called the first. They come from the same two trainings, so that their share scatters more than their number "
        "suggests."
    )


def _table(view: View, rows: pd.DataFrame) -> Table:
    several = rows["regime"].nunique() > 1
    entries = []
    for regime in in_order(rows["regime"], view.regimes):
        for row in rows[rows["regime"] == regime].to_dict("records"):
            name = "mean of all" if row["combination"] == MEAN else row["combination"]
            entries.append(
                [
                    Entry(f"{regime}: {name}" if several else name),
                    Entry(str(int(row["n"]))),
                    Entry(signed(row["difference"], 3), interval(row["lower"], row["upper"], 3)),
                    Entry(f"{number(100 * row['called'], 0)}%"),
                    Entry(f"{number(100 * row['called_after_holm'], 0)}%"),
                ]
            )
    return Table(
        f"RMSE of the first training minus that of the second, in {view.unit}, {view.intervals}; and the share of "
        "comparisons that are called a difference.",
        ["Combination", "n", "Difference", "Called, one by one", "Called after Holm"],
        entries,
    )


AGAIN_SECTION = ReportSection(again_section, {AGAIN: again_rows})
