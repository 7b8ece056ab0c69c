"""A publication's figures beside the study's own: percentage changes of RMSE, and which of its claims carried over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import isfinite
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from permmoe_simulation.report.content import Entry, Item, Plot, Section, Table, Text, interval, listed, signed
from permmoe_simulation.report.differences import VERDICT_LOOKS
from permmoe_simulation.report.figures import Mark, Panel, Row, row_plot
from permmoe_simulation.report.lookups import MEAN, STRATA, in_order
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.style import Look
from permmoe_simulation.report.view import View
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.studies.prediction_errors import Resampled, interval_bounds, resampled_rmse
from permmoe_simulation.studies.study import Published
from permmoe_simulation.study_tables import PAIR, StudyTable, real, text, whole, with_interval

Verdict = Literal["carried over", "did not", "cannot be told"]
NOT_KNOWN = "not in the digest we had"
"""Only a digest of the publication was available, which does not hold every figure."""
THEIRS = Look("#d55e00", "D", is_filled=False)


PERCENT_CHANGES = StudyTable(
    "percent_changes",
    "how many percent the RMSE of a method lies above its reference's on the same subjects",
    (*PAIR, *text("stratum", "combination"), *whole("n", unit="subjects"), *with_interval("percent", unit="%")),
)
WINS = StudyTable(
    "wins",
    "in how many of the combinations that have a subject the RMSE of a method lies below its reference's",
    (*PAIR, *text("stratum"), *whole("combinations", "wins"), *real("lower", "upper", unit="combinations")),
)


def percent_change_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of PERCENT_CHANGES; `mean` is the mean of the combinations' percentages."""
    rows = []
    for key, found in _percent_changes(done):
        known = [one for one in found if one is not None]
        for combination, one in zip([MEAN, *done.errors.combinations], [_mean_of(known), *found], strict=True):
            figures = {"n": 0, "percent": np.nan, "lower": np.nan, "upper": np.nan}
            if one is not None:
                figures = {"n": int(one.tested.sum()), "percent": one.estimate, **interval_bounds(one.resampled)}
            rows.append({**key, "combination": combination, **figures})
    return pd.DataFrame(rows)


def win_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of WINS, with intervals from the same resamples."""
    rows = []
    for key, found in _percent_changes(done):
        known = [one for one in found if one is not None]
        won = np.stack([one.resampled < 0 for one in known]).sum(0) if known else np.zeros(1)
        rows.append({**key, "combinations": len(known), "wins": sum(one.estimate < 0 for one in known),
                     **interval_bounds(won.astype(np.float64))})  # fmt: skip
    return pd.DataFrame(rows)


# Both tables are made from these resamples.
@lru_cache(maxsize=1)
def _percent_changes(done: FinishedStudy) -> list[tuple[dict[str, str], list[Resampled | None]]]:
    """For each pair and stratum, the change with each combination; None where the combination has no subject."""
    errors, changes = done.errors, []
    for (method, reference, regime), stratum in product(errors.finished(done.config.pairs), errors.strata):
        key = {"method": method, "reference": reference, "regime": regime, "stratum": stratum}
        own, other = (errors.squared(name, regime, MEAN, stratum) for name in (method, reference))
        changes.append((key, [_percent_change(a, b, errors.weights) for a, b in zip(own, other, strict=True)]))
    return changes


def _percent_change(
    method: Float[np.ndarray, "seed subject"],
    reference: Float[np.ndarray, "seed subject"],
    weights: Float[np.ndarray, "resample subject"],
) -> Resampled | None:
    both = ~np.isnan(method) & ~np.isnan(reference)
    one, other = (resampled_rmse([np.where(both, e, np.nan)], weights) for e in (method, reference))
    if one is None or other is None or other.estimate == 0:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = 100 * (one.resampled / other.resampled - 1)
    return Resampled(resampled, 100 * (one.estimate / other.estimate - 1), both.any(0))


def _mean_of(changes: Sequence[Resampled]) -> Resampled | None:
    """The mean of the changes; in each resample, over those that have a subject there."""
    if not changes:
        return None
    table = np.stack([one.resampled for one in changes])
    known = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        resampled = np.where(known, table, 0.0).sum(0) / known.sum(0)
    tested = np.any([one.tested for one in changes], axis=0)
    return Resampled(resampled, float(np.mean([one.estimate for one in changes])), tested)


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


def verdict_on(theirs: float, at_rest: float, lower: float, upper: float, size: float | None) -> Verdict:
    """Whether a publication's claim carried over to this study, whose 95% interval is from `lower` to `upper`.

    The publication's figure `theirs` lies on one side of `at_rest`, the value of no difference. The claim carried over
    where the whole interval lies on that side. It did not where the whole interval lies on the other side, or where the
    interval does not hold the publication's `size`. Otherwise the verdict is "cannot be told".
    """
    if not (isfinite(lower) and isfinite(upper)):
        return "cannot be told"
    below = theirs < at_rest
    if upper < at_rest if below else lower > at_rest:
        return "carried over"
    if lower > at_rest if below else upper < at_rest:
        return "did not"
    return "did not" if size is not None and not lower <= size <= upper else "cannot be told"


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
        low, high = (row["lower"], row["upper"]) if row else (float("nan"), float("nan"))
        theirs_told = f"{view.label(published.reference)} better; size {NOT_KNOWN}"
        verdict = verdict_on(1.0, 0.0, low, high, None)
        found.append(Beside(f"with {combination}", theirs_told, *_ours(row), verdict))
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
    for verdict, first, empty in verdicts:
        names = [b.what for b in statements if b.verdict == verdict]
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
    low, high = (row["lower"], row["upper"]) if row else (float("nan"), float("nan"))
    return Beside(what, f"{signed(theirs, 1)}%", *_ours(row), verdict_on(theirs, 0.0, low, high, theirs))


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
    size = won / of * total
    verdict = verdict_on(size, total / 2, float(row["lower"]), float(row["upper"]), size)
    bounds = f"{interval(float(row['lower']), float(row['upper']), 0)} of {total}"
    return Beside(what, published.wins, f"{int(row['wins'])}\u00a0of\u00a0{total}", bounds, "", verdict)


def _table(view: View, published: Published, statements: list[Beside], where: str) -> Table:
    rest = len([c for c in view.combinations if c not in (*published.percent, *published.reference_better)])
    return Table(
        f"{where}Change of the RMSE of {view.label(published.method)} against {view.label(published.reference)}; below "
        f"zero it errs less. Theirs: {published.source}. Ours: {view.summary.data_label}, "
        f"{len(view.summary.seeds)} seeds, with 95% bootstrap intervals of the percentage; other subjects and other "
        "images, so that not the sizes but the directions compare. A claim carried over where our whole interval lies "
        "on its side of no difference; it did not where the interval lies on the other side or has no room for their "
        f"figure. Their figures for the other {rest} combinations, and intervals of any: {NOT_KNOWN}.",
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
            low, high = row["lower"], row["upper"]
            look = VERDICT_LOOKS["better" if high < 0 else "worse" if low > 0 else "unclear"]
            marks.append(Mark(j, row["percent"], look, low, high))
        if (combination, stratum) in paper:
            marks.append(Mark(j, paper[combination, stratum], THEIRS))
    ours = view.summary.data_label
    legend = (
        (f"ours ({ours}), better", VERDICT_LOOKS["better"]),
        ("ours, worse", VERDICT_LOOKS["worse"]),
        ("ours, interval holds zero", VERDICT_LOOKS["unclear"]),
        ("the paper's figure", THEIRS),
    )
    a, b = view.label(published.method), view.label(published.reference)
    label = f"change of the RMSE of {a} against {b} (%)\n← better | worse →"
    texts = "; ".join(f"{one.what}: paper {one.theirs}, ours {one.ours}" for one in beside(view, published, regime))
    return Plot(
        row_plot(rows, [Panel("", label, marks, remarks)], view.modalities, note_title="paper", legend=legend,
                 is_difference=True),
        f"Dot plot of the percentage change of RMSE by combination, the paper's figures beside ours: {texts}.",
        f"Theirs: {published.source}, as far as their figures are in the digest we had. Ours: {ours}, with 95% "
        f"bootstrap intervals over subjects of the percentage. Worse: the paper says {b} is better there, without a "
        "figure in the digest.",
    )  # fmt: skip


PUBLISHED = ReportSection(published_section, {PERCENT_CHANGES: percent_change_rows, WINS: win_rows})
