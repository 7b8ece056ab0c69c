"""A publication's figures beside the study's own: percentage changes of RMSE, and which of its claims carried over."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import isfinite, isnan, nan
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from permmoe.evaluation.figures import Figure, mean_figure, paired_rmse, ratio_change
from permmoe.evaluation.intervals import LEVEL, judged_interval, judged_p_value
from permmoe_simulation.report.content import Entry, Item, Plot, Section, Table, Text, interval, listed, signed
from permmoe_simulation.report.differences import VERDICT_LOOKS
from permmoe_simulation.report.figures import Mark, Panel, Row, row_plot
from permmoe_simulation.report.lookups import MEAN, STRATA, in_order
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.style import Look
from permmoe_simulation.report.view import View
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.studies.study import Published
from permmoe_simulation.studies.verdicts import Verdict as Told
from permmoe_simulation.studies.verdicts import corrected, verdict
from permmoe_simulation.study_tables import PAIR, StudyTable, real, tested, text, whole, with_interval

Verdict = Literal["carried over", "did not", "cannot be told"]
NOT_KNOWN = "not in the digest we had"
"""Only a digest of the publication was available, which does not hold every figure."""
THEIRS = Look("#d55e00", "D", is_filled=False)
LOOK_OF = {"lower": "better", "higher": "worse"}
NOTHING = {"n": 0, "percent": np.nan, "lower": np.nan, "upper": np.nan, "seeds": 0, "p_value": np.nan, "p_size": np.nan}
"""A row of PERCENT_CHANGES where nobody was tested."""


PERCENT_CHANGES = StudyTable(
    "percent_changes",
    "how many percent the RMSE of a method lies above its reference's on the same subjects",
    (
        *PAIR,
        *text("stratum", "combination"),
        *whole("n", unit="subjects"),
        *with_interval("percent", unit="%"),
        *tested(),
        *real("p_holm_size", may_be_absent=True),
    ),
)
WINS = StudyTable(
    "wins",
    "in how many of the combinations that have a subject the RMSE of a method lies below its reference's",
    (*PAIR, *text("stratum"), *whole("combinations", "wins"), *real("lower", "upper", unit="combinations")),
)


def percent_change_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of PERCENT_CHANGES; `mean` is the mean of the combinations' percentages.

    Two tests say what became of a publication's claim: whether the percentage is zero, and whether it is the
    publication's. All of them, of all its pairs and regimes, are corrected together.
    """
    rows, theirs = [], _published_percentages(done)
    for key, changes in _percent_changes(done):
        for combination, figure in changes.items():
            row = {**key, "combination": combination, **NOTHING}
            if figure is not None:
                found = judged_interval(figure)
                row |= {"n": found.n, "percent": found.estimate, "lower": found.lower, "upper": found.upper,
                        "seeds": found.seeds, "p_value": judged_p_value(figure)}  # fmt: skip
                size = theirs.get((key["method"], key["reference"], combination, key["stratum"]), np.nan)
                row["p_size"] = judged_p_value(figure, size) if isfinite(size) else np.nan
            rows.append(row)
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    pairs = {(p.method, p.reference) for p in done.config.published}
    is_shown = [(m, r) in pairs for m, r in zip(table["method"], table["reference"], strict=True)]
    tests = table["p_value"].where(is_shown).tolist() + table["p_size"].tolist()
    p_holm = corrected(tests)
    return table.drop(columns="p_size").assign(p_holm=p_holm[: len(table)], p_holm_size=p_holm[len(table) :])


def win_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of WINS. The interval counts from the combinations won beyond chance to those not lost beyond chance.

    Since the tests are corrected together, it holds the number of combinations in which the method is truly better in
    95% of studies. Where a combination is not judged there is none.
    """
    keys, singles = [], []
    for key, changes in _percent_changes(done):
        keys.append(key)
        singles.append([figure for c, figure in changes.items() if c != MEAN and figure is not None])
    p_holm = iter(corrected([judged_p_value(figure) for figures in singles for figure in figures]).tolist())
    rows = []
    for key, figures in zip(keys, singles, strict=True):
        told = [verdict(figure.value, next(p_holm)) for figure in figures]
        is_judged = bool(told) and "not judged" not in told
        ends = (told.count("lower"), len(told) - told.count("higher")) if is_judged else (np.nan, np.nan)
        rows.append({**key, "combinations": len(told), "wins": sum(figure.value < 0 for figure in figures),
                     "lower": ends[0], "upper": ends[1]})  # fmt: skip
    return pd.DataFrame(rows)


# Both tables are made from these figures.
@lru_cache(maxsize=1)
def _percent_changes(done: FinishedStudy) -> list[tuple[dict[str, str], dict[str, Figure | None]]]:
    """For each pair and stratum, the change on average and with each combination; None where nobody was tested."""
    errors, changes = done.errors, []
    for (method, reference, regime), stratum in product(errors.finished(done.config.pairs), errors.strata):
        key = {"method": method, "reference": reference, "regime": regime, "stratum": stratum}
        own, other = (errors.squared(name, regime, MEAN, stratum) for name in (method, reference))
        found = [_percent_change(a, b) for a, b in zip(own, other, strict=True)]
        known = [figure for figure in found if figure is not None]
        mean = mean_figure(known) if known else None
        changes.append((key, dict(zip([MEAN, *errors.combinations], [mean, *found], strict=True))))
    return changes


def _percent_change(
    method: Float[np.ndarray, "seed subject"], reference: Float[np.ndarray, "seed subject"]
) -> Figure | None:
    own, other = paired_rmse(method, reference)
    return ratio_change(own, other) if own.n and other.value > 0 else None


def _published_percentages(done: FinishedStudy) -> dict[tuple[str, str, str, str], float]:
    """By method, reference, combination and stratum."""
    found: dict[tuple[str, str, str, str], float] = {}
    for p in done.config.published:
        found |= {(p.method, p.reference, c, "all"): percent for c, percent in p.percent.items()}
        found |= {(p.method, p.reference, MEAN, s): percent for s, percent in p.percent_by_stratum.items()}
    return found


@dataclass(frozen=True)
class Beside:
    """One claim of a publication with what the study has for it; percentages, or combinations won."""

    what: str
    theirs: str
    ours: str
    between: str
    n: str
    verdict: Verdict


def published_section(view: View) -> Section | None:
    """Nothing where the study names no publication."""
    items: list[Item] = []
    for published in view.summary.published:
        for regime in regimes_of(view, published):
            statements = beside(view, published, regime)
            where = f"In regime {regime}: " if len(view.regimes) > 1 else ""
            items += [Text(where + carried_sentence(view, published, statements)), _plot(view, published, regime)]
            items.append(_table(view, published, statements, where))
    return Section("published", "Beside the paper", items) if items else None


def verdict_on(is_below: bool, ours: Told, is_size_refused: bool = False) -> Verdict:
    """Whether a publication's claim carried over to this study.

    The publication's figure lies below no difference or above it; ours does so beyond chance, or not. The claim carried
    over where ours lies on the same side. It did not where ours lies on the other side, or where the publication's size
    is refused beyond chance. Otherwise the verdict is "cannot be told".
    """
    if ours == ("lower" if is_below else "higher"):
        return "carried over"
    return "did not" if ours in ("lower", "higher") or is_size_refused else "cannot be told"


def beside(view: View, published: Published, regime: str) -> list[Beside]:
    """Every claim of the publication about its pair, in one regime."""
    found = []
    for combination, theirs in published.percent.items():
        row = _percent(view, published, regime, combination, "all")
        found.append(_of_percent(f"with {combination}", theirs, row))
    for stratum, theirs in published.percent_by_stratum.items():
        row = _percent(view, published, regime, MEAN, stratum)
        found.append(_of_percent(f"averaged over combinations, {_stratum(stratum)}", theirs, row))
    for combination in published.reference_better:
        row = _percent(view, published, regime, combination, "all")
        theirs_told = f"{view.label(published.reference)} better; size {NOT_KNOWN}"
        found.append(Beside(f"with {combination}", theirs_told, *_ours(row), verdict_on(False, _told(row))))
    if published.wins:
        found.append(_of_wins(view, published, regime))
    return found


def carried_sentence(view: View, published: Published, statements: list[Beside]) -> str:
    """How many of the paper's claims carried over, which did not, and which cannot be told."""
    pair = f"{view.label(published.method)} against {view.label(published.reference)}"
    parts = []
    verdicts: tuple[tuple[Verdict, str, str], ...] = (
        ("carried over", "carried over", "carried over"),
        ("did not", "did not", "did not"),
        ("cannot be told", "cannot be told from chance", "is beyond telling"),
    )
    for told, first, empty in verdicts:
        names = [b.what for b in statements if b.verdict == told]
        parts.append(f"{len(names)} {first} ({'; '.join(names)})" if names else f"none {empty}")
    return f"Of the paper's {len(statements)} claims about {pair}, {listed(parts)}."


def regimes_of(view: View, published: Published) -> list[str]:
    changes = view.study.table(PERCENT_CHANGES)
    if changes is None:
        return []
    rows = changes[(changes["method"] == published.method) & (changes["reference"] == published.reference)]
    return in_order(rows["regime"], view.regimes)


def _percent(view: View, published: Published, regime: str, combination: str, stratum: str) -> dict[str, Any] | None:
    changes = view.study.table(PERCENT_CHANGES)
    assert changes is not None  # `regimes_of` names none without it
    rows = changes[
        (changes["method"] == published.method)
        & (changes["reference"] == published.reference)
        & (changes["regime"] == regime)
        & (changes["combination"] == combination)
        & (changes["stratum"] == stratum)
        & (changes["n"] > 0)
    ]
    return None if rows.empty else {str(k): v for k, v in rows.iloc[0].to_dict().items()}


def _stratum(name: str) -> str:
    title, _, rule = STRATA.get(name, name).partition(": ")
    return title.lower() + (f" ({rule})" if rule else "")


def _of_percent(what: str, theirs: float, row: dict[str, Any] | None) -> Beside:
    is_refused = row is not None and float(row.get("p_holm_size", nan)) < LEVEL
    return Beside(what, f"{signed(theirs, 1)}%", *_ours(row), verdict_on(theirs < 0, _told(row), is_refused))


def _told(row: dict[str, Any] | None) -> Told:
    return "not judged" if row is None else verdict(float(row["percent"]), float(row.get("p_holm", nan)))


def _ours(row: dict[str, Any] | None) -> tuple[str, str, str]:
    if row is None:
        return "–", "", "0"
    return f"{signed(row['percent'], 1)}%", f"{interval(row['lower'], row['upper'], 1)}", str(int(row["n"]))


def _of_wins(view: View, published: Published, regime: str) -> Beside:
    won, of = (int(part) for part in published.wins.split(" of "))
    wins = view.study.table(WINS)
    what = "combinations won"
    rows = pd.DataFrame() if wins is None else wins[
        (wins["method"] == published.method) & (wins["reference"] == published.reference)
        & (wins["regime"] == regime) & (wins["stratum"] == "all")
    ]  # fmt: skip
    if rows.empty or not rows["combinations"].iloc[0]:
        return Beside(what, published.wins, "–", "", "", "cannot be told")
    row = rows.iloc[0]
    total = int(row["combinations"])
    lower, upper = float(row["lower"]), float(row["upper"])
    size = won / of * total
    told: Told = "lower" if upper < total / 2 else "higher" if lower > total / 2 else "not told"
    outcome = verdict_on(size < total / 2, told, is_size_refused=not (lower <= size <= upper or isnan(lower)))
    bounds = f"{interval(lower, upper, 0)} of {total}" if isfinite(lower) else ""
    return Beside(what, published.wins, f"{int(row['wins'])}\u00a0of\u00a0{total}", bounds, "", outcome)


def _table(view: View, published: Published, statements: list[Beside], where: str) -> Table:
    rest = len([c for c in view.combinations if c not in (*published.percent, *published.reference_better)])
    return Table(
        f"{where}Change of the RMSE of {view.label(published.method)} against {view.label(published.reference)}; below "
        f"zero it errs less. Theirs: {published.source}. Ours: {view.summary.data_label}, "
        f"{view.intervals}; other subjects and other images, so that not the sizes but the directions compare. A "
        "claim carried over where ours lies on its side of no difference beyond chance; it did not where ours lies on "
        "the other side, or where their figure is refused, beyond chance. All these tests are corrected together "
        f"(Holm). Their figures for the other {rest} combinations, and intervals of any: {NOT_KNOWN}.",
        ["Claim", "Paper", "Ours", "n", "Outcome"],
        [
            [
                Entry(b.what),
                Entry(b.theirs),
                Entry(b.ours, b.between),
                Entry(b.n),
                Entry(b.verdict, is_strong=True),
            ]
            for b in statements
        ],
    )


def _plot(view: View, published: Published, regime: str) -> Plot:
    notes = {c: f"{signed(p, 1)}%" for c, p in published.percent.items()}
    notes |= dict.fromkeys(published.reference_better, "worse")
    rows, keys = view.combination_rows(notes), [(c, "all") for c in view.combinations]
    paper: dict[tuple[str, str], float] = {(c, "all"): p for c, p in published.percent.items()}
    rows.append(Row("mean of all", starts_group=True))
    keys.append((MEAN, "all"))
    for stratum, theirs in published.percent_by_stratum.items():
        rows.append(Row(f"mean, {STRATA.get(stratum, stratum).split(':')[0].lower()}", note=f"{signed(theirs, 1)}%"))
        keys.append((MEAN, stratum))
        paper[MEAN, stratum] = theirs
    marks, remarks = [], {}
    for j, (combination, stratum) in enumerate(keys):
        row = _percent(view, published, regime, combination, stratum)
        if row is None:
            remarks[j] = "no subject"
        else:
            look = VERDICT_LOOKS[LOOK_OF.get(_told(row), "unclear")]
            marks.append(Mark(j, row["percent"], look, row["lower"], row["upper"]))
        if (combination, stratum) in paper:
            marks.append(Mark(j, paper[combination, stratum], THEIRS))
    ours = view.summary.data_label
    legend = (
        (f"ours ({ours}), better", VERDICT_LOOKS["better"]),
        ("ours, worse", VERDICT_LOOKS["worse"]),
        ("ours, not told or not judged", VERDICT_LOOKS["unclear"]),
        ("the paper's figure", THEIRS),
    )
    a, b = view.label(published.method), view.label(published.reference)
    label = f"change of the RMSE of {a} against {b} (%)\n← better | worse →"
    texts = "; ".join(f"{one.what}: paper {one.theirs}, ours {one.ours}" for one in beside(view, published, regime))
    return Plot(
        row_plot(rows, [Panel("", label, marks, remarks)], view.modalities, note_title="paper", legend=legend,
                 is_difference=True),
        f"Dot plot of the percentage change of RMSE by combination, the paper's figures beside ours: {texts}.",
        f"Theirs: {published.source}, as far as their figures are in the digest we had. Ours: {ours}, "
        f"{view.intervals}. Worse: the paper says {b} is better there, without a figure in the digest.",
    )  # fmt: skip


PUBLISHED = ReportSection(published_section, {PERCENT_CHANGES: percent_change_rows, WINS: win_rows})
