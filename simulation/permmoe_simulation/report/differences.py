"""The section that compares methods in pairs, on the same test subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from permmoe.evaluation.intervals import why_not_judged
from permmoe_simulation.report.content import (
    NO_SUBJECT,
    Entry,
    Fold,
    Item,
    Plot,
    Section,
    Table,
    Text,
    count,
    interval,
    listed,
    signed,
    table_digits,
)
from permmoe_simulation.report.figures import Mark, Panel, Row, row_plot
from permmoe_simulation.report.lookups import (
    MEAN,
    STRATA,
    Difference,
    differences,
    in_order,
    sample_size,
)
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.style import BETTER, MUTED, WORSE, Look
from permmoe_simulation.report.view import View
from permmoe_simulation.studies.verdicts import NOT_JUDGED_BEFORE
from permmoe_simulation.study_tables import COMPARISONS

VERDICT_LOOKS = {
    "better": Look(BETTER, "o"),
    "worse": Look(WORSE, "s"),
    "unclear": Look(MUTED, "o", is_filled=False),
}
VERDICT_LEGEND = (
    ("better beyond chance", VERDICT_LOOKS["better"]),
    ("worse beyond chance", VERDICT_LOOKS["worse"]),
    ("not told from chance, or not judged", VERDICT_LOOKS["unclear"]),
)
VERDICT_PHRASES = (
    ("better", "clearly better"),
    ("worse", "clearly worse"),
    ("unclear", "without a clear difference"),
)
PAIRS_PER_FIGURE = 3


def difference_label(unit: str) -> str:
    """The label of an axis of differences."""
    return f"RMSE difference\n({unit})\n← better | worse →"


def differences_section(view: View) -> Section:
    """Paired differences: all pairs at a glance, then by combination."""
    comparisons = view.study.table(COMPARISONS)
    title = "Paired differences"
    if comparisons is None:
        return Section(
            "differences", title, [Text("Not available: the study left no paired differences (comparisons.csv).")]
        )
    regimes = in_order(comparisons["regime"], view.regimes)
    items: list[Item] = [*_overview(view, comparisons, regimes), Text(_rule(comparisons))]
    for j, regime in enumerate(regimes):
        blocks = _pair_blocks(view, differences(comparisons, regime, "all"))
        where = f", regime {regime}" if len(regimes) > 1 else ""
        if j == 0:
            items += blocks[:1]
            blocks = blocks[1:]
            if blocks:
                items.append(Fold(f"More differences by combination{where}", blocks))
        elif blocks:
            items.append(Fold(f"Differences by combination{where}", blocks))
    return Section("differences", title, items)


def _rule(comparisons: pd.DataFrame) -> str:
    """How this report judges, and what it leaves out."""
    judged = comparisons[comparisons["p_holm"].notna()] if "p_holm" in comparisons else comparisons[:0]
    if not len(judged) or "seeds" not in comparisons:
        why = NOT_JUDGED_BEFORE
        if "seeds" in comparisons:
            why = why_not_judged(*(int(comparisons[c].max()) for c in ("n", "seeds"))) or "no test"
        return f"No difference on this page is judged: {why}. What was computed is shown as points."
    families = judged["family"].value_counts(sort=False)
    left_out = comparisons[comparisons["p_holm"].isna() & (comparisons["n"] > 0)]
    reasons = sorted({why_not_judged(int(n), int(s)) for n, s in zip(left_out["n"], left_out["seeds"], strict=True)})
    return (
        "A difference is called better or worse beyond chance where its two-sided test over training seeds, splits and "
        "subjects stays below 5% after Holm's correction over all tests of its kind on this page, all pairs and "
        f"regimes together: {listed([f'{n} {name}' for name, n in families.items()])}. Intervals are not widened "
        "for the number of tests."
        + (
            f" Not judged, and shown as points: {count(len(left_out), 'difference')} ({'; '.join(reasons)})."
            if reasons
            else ""
        )
    )


def _overview(view: View, comparisons: pd.DataFrame, regimes: Sequence[str]) -> list[Item]:
    """All pairs, averaged over combinations, in every stratum."""
    averaged = comparisons[comparisons["combination"] == MEAN]
    strata = in_order(averaged["stratum"], STRATA)
    found = {(regime, s): differences(averaged, regime, s) for regime in regimes for s in strata}
    keys = list(dict.fromkeys((pair, regime) for (regime, _), pairs in found.items() for pair in pairs))
    if not keys:
        return []
    keys.sort(key=lambda key: _pair_rank(view, key[0]))
    rows = [
        Row(
            (f"{regime}: " if len(regimes) > 1 else "") + f"{view.label(a)} − {view.label(b)}",
            starts_group=j > 0 and keys[j - 1][0][0] != a,
        )
        for j, ((a, b), regime) in enumerate(keys)
    ]
    panels = []
    for s in strata:
        shown = [found[regime, s].get(pair, {}).get(MEAN) for pair, regime in keys]
        remarks = {row: NO_SUBJECT for row, d in enumerate(shown) if d is None or d.verdict == "none"}
        marks = [mark for row, d in enumerate(shown) if (mark := _difference_mark(row, d))]
        panels.append(Panel(STRATA.get(s, s), difference_label(view.unit), marks, remarks))
    svg = row_plot(rows, panels, view.modalities, legend=VERDICT_LEGEND, is_difference=True)
    return [
        *(Text(sentence) for sentence in _sentences(view, found, regimes)),
        Plot(
            svg,
            f"Forest plot of {count(len(keys), 'paired difference')} averaged over combinations. "
            + " ".join(_sentences(view, found, regimes)),
            "RMSE of the method named first minus that of its reference on the same subjects, averaged over "
            f"combinations, {view.intervals}. Left of zero the first method errs less.",
        ),
    ]


def _sentences(
    view: View,
    found: Mapping[tuple[str, str], Mapping[tuple[str, str], Mapping[str, Difference]]],
    regimes: Sequence[str],
) -> list[str]:
    """Which mean differences over all test subjects are beyond chance, in words; a pair's regimes stand together."""
    where: dict[tuple[str, str], dict[str, list[str]]] = {}
    for regime in regimes:
        for pair, by_combination in found.get((regime, "all"), {}).items():
            where.setdefault(pair, {}).setdefault(by_combination[MEAN].verdict, []).append(regime)
    parts = []
    for verdict, phrase in VERDICT_PHRASES:
        pairs = [pair for pair, verdicts in where.items() if verdict in verdicts]
        if verdict == "unclear":  # a pair that was clear somewhere has been named already
            pairs = [pair for pair in pairs if not {"better", "worse"} & where[pair].keys()]
        statements = []
        for a, b in pairs:
            shown = where[a, b][verdict]
            names = f" (in {len(shown)} of {len(regimes)} regimes: {', '.join(shown)})" if len(regimes) > 1 else ""
            statements.append(f"{view.label(a)} against {view.label(b)}{names if verdict != 'unclear' else ''}")
        if statements:
            anywhere = " in any regime" if verdict == "unclear" and len(regimes) > 1 else ""
            parts.append(f"{phrase}{anywhere}: {', '.join(statements)}")
    return [f"On average over combinations, all test subjects: {'; '.join(parts)}."] if parts else []


def _pair_blocks(view: View, found: Mapping[tuple[str, str], Mapping[str, Difference]]) -> list[Item]:
    """Forest plots of three pairs each, and one table of all."""
    pairs = sorted(found, key=lambda pair: _pair_rank(view, pair))
    if not pairs:
        return []
    groups = [pairs[j : j + PAIRS_PER_FIGURE] for j in range(0, len(pairs), PAIRS_PER_FIGURE)]
    plots = [_pair_plot(view, group, found) for group in groups]
    return [*plots, Fold("Differences as numbers", [_difference_table(view, pairs, found)])]


def _pair_plot(
    view: View, pairs: Sequence[tuple[str, str]], found: Mapping[tuple[str, str], Mapping[str, Difference]]
) -> Plot:
    if view.are_combinations_few:
        shown = list(view.combinations)
    else:
        shown = [c for c in view.combinations if view.size(c) in (1, len(view.modalities))]
    notes = {c: sample_size(found[pair][c].n for pair in pairs if c in found[pair]) for c in [MEAN, *shown]}
    by_name = {row.label: row for row in view.combination_rows(notes)}
    rows = [Row("mean of all", note=""), *(by_name[c] for c in shown)]
    rows[1] = Row(rows[1].label, rows[1].observed, rows[1].note, starts_group=True)
    panels, statements = [], []
    for pair in pairs:
        by_row = [found[pair].get(c) for c in [MEAN, *shown]]
        marks = [mark for row, d in enumerate(by_row) if (mark := _difference_mark(row, d))]
        remarks = {
            row: "not compared" if d is None else NO_SUBJECT if d.n == 0 else "no figure"
            for row, d in enumerate(by_row)
            if d is None or d.verdict == "none"
        }
        title = f"{view.label(pair[0])}\n− {view.label(pair[1])}"
        panels.append(Panel(title, difference_label(view.unit), marks, remarks))
        statements.append(_tally(view, pair, found[pair]))
    svg = row_plot(rows, panels, view.modalities, note_title="n", legend=VERDICT_LEGEND, is_difference=True)
    subset = (
        ""
        if view.are_combinations_few
        else (
            f" Of {len(view.combinations)} combinations the figure shows those of one modality and of all; "
            "the table has the rest."
        )
    )
    return Plot(
        svg,
        f"Forest plot of paired RMSE differences by combination. {' '.join(statements)}",
        f"RMSE differences on the same test subjects, {view.intervals}. {' '.join(statements)}{subset}",
    )


def _tally(view: View, pair: tuple[str, str], by_combination: Mapping[str, Difference]) -> str:
    verdicts = [d.verdict for c, d in by_combination.items() if c != MEAN and d.verdict != "none"]
    total = len(verdicts)
    return (
        f"{view.label(pair[0])} against {view.label(pair[1])}: clearly better in {verdicts.count('better')} of "
        f"{count(total, 'combination')}, clearly worse in {verdicts.count('worse')}."
    )


def _difference_mark(row: int, difference: Difference | None) -> Mark | None:
    if difference is None or difference.verdict == "none":
        return None
    return Mark(row, difference.value, VERDICT_LOOKS[difference.verdict], difference.lower, difference.upper)


def _difference_table(
    view: View, pairs: Sequence[tuple[str, str]], found: Mapping[tuple[str, str], Mapping[str, Difference]]
) -> Table:
    rows = []
    digits = table_digits(d.value for own in found.values() for d in own.values())
    for c in [MEAN, *view.combinations]:
        numbers = [found[pair][c].n for pair in pairs if c in found[pair]]
        entries = [Entry("mean of all" if c == MEAN else c), Entry(sample_size(numbers))]
        for pair in pairs:
            d = found[pair].get(c)
            if d is None or d.verdict == "none":
                entries.append(Entry(NO_SUBJECT if d is not None and d.n == 0 else "–", is_quiet=True))
            else:
                strong = d.verdict in ("better", "worse")
                told = d.verdict if strong else d.why_unjudged
                detail = ", ".join(filter(None, [interval(d.lower, d.upper, digits), told]))
                entries.append(Entry(signed(d.value, digits), detail, is_strong=strong))
        rows.append(entries)
    return Table(
        f"RMSE differences in {view.unit}, method − reference, {view.intervals}. Bold: beyond chance after Holm's "
        "correction.",
        ["Combination", "n", *(f"{view.label(a)} − {view.label(b)}" for a, b in pairs)],
        rows,
    )


def _pair_rank(view: View, pair: tuple[str, str]) -> tuple[int, int]:
    order = list(view.methods)
    method, reference = (order.index(name) if name in order else len(order) for name in pair)
    return method, reference


DIFFERENCES = ReportSection(differences_section)
