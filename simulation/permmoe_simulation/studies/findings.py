"""What a study found, in sentences: its claims, evaluated by paired differences, whichever way they went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from permmoe_simulation.report.content import digits_for, number, signed
from permmoe_simulation.studies.study import MEAN, Claim
from permmoe_simulation.studies.verdicts import verdict, why_without_verdict
from permmoe_simulation.summary import Goal

MOST_CLAIMS_WITHOUT_SUMMARY = 2
"""More claims than these are led by a sentence that sums them up."""
MOST_NAMED = 3
"""Claims or regimes that a sentence names; where there are more, it counts them."""
UNTOLD = "it cannot be told from chance"


def evaluated_goals(claims: Sequence[Claim], comparisons: pd.DataFrame, labels: Mapping[str, str]) -> list[Goal]:
    """Each claim with its paired difference in every regime; met where it lies below zero beyond chance.

    Where it is not judged `met` and the interval are None, and the goal says why; where no subject was predicted by
    both methods, or a method did not finish, the difference too.
    """
    goals = []
    for claim in claims:
        where = "averaged over combinations" if claim.combination == MEAN else f"with {claim.combination}"
        method, reference = labels[claim.method], labels[claim.reference]
        text = f"{method} beats {reference}, {where}"
        unknown = Goal(claim=text, method=method, reference=reference, where=where)
        rows = comparisons
        if len(comparisons):
            rows = comparisons[
                comparisons.method.eq(claim.method)
                & comparisons.reference.eq(claim.reference)
                & comparisons.combination.eq(claim.combination)
                & comparisons.stratum.eq("all")
            ]
        if not len(rows):
            goals.append(unknown)
        for row in rows.itertuples():
            found = _judged(row._asdict()) if row.n else {}
            goals.append(unknown.model_copy(update={"regime": row.regime, **found}))
    return goals


def _judged(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a goal that a row of COMPARISONS decides."""
    n, seeds, difference = int(row["n"]), int(row["seeds"]), float(row["difference"])
    found = verdict(difference, row["p_holm"])
    figures = {"n": n, "seeds": seeds, "difference": difference}
    if found == "not judged":
        return {**figures, "why_undecided": why_without_verdict(n, seeds, row["p_holm"])}
    return {**figures, "lower": row["lower"], "upper": row["upper"], "met": found == "lower",
            "reversed": found == "higher"}  # fmt: skip


def findings(goals: Sequence[Goal], unit: str, *, names_regime: bool) -> list[str]:
    """A sentence for each claim over all its regimes; many claims are led by one that sums them up."""
    by_claim = _by_claim(goals)
    sentences = [
        _over_regimes(group, unit) if len(group) > 1 else finding(group[0], unit, names_regime=names_regime)
        for group in by_claim.values()
    ]
    if len(by_claim) <= MOST_CLAIMS_WITHOUT_SUMMARY:
        return sentences
    return [_summary(goals, len(by_claim), unit, names_regime), *sentences]


def finding(goal: Goal, unit: str, *, names_regime: bool = False) -> str:
    """A claim's outcome in one regime."""
    prefix = f"{goal.regime}: " if names_regime and goal.regime else ""
    if goal.difference is None:
        return f"{prefix}{goal.claim}: not evaluated, since no test visit was predicted by both."
    d, low, high = goal.figures
    digits = digits_for(d)
    if goal.met is None:
        judged = f"n = {goal.n}; not judged: {goal.why_undecided}"
    else:
        excludes_zero = low > 0 or high < 0
        untold = "not beyond chance once all claims are counted" if excludes_zero else UNTOLD
        told = "beyond chance" if goal.met or goal.reversed else untold
        judged = f"95% interval {_between(low, high, digits)}, n = {goal.n}, {goal.seeds} training seeds; {told}"
    return (
        f"{prefix}RMSE of {goal.method} is {number(abs(d), digits)} {unit} {'lower' if d < 0 else 'higher'} than "
        f"that of {goal.reference}, {goal.where} ({judged})."
    )


def _over_regimes(group: Sequence[Goal], unit: str) -> str:
    """One claim in several regimes."""
    known = [one for one in group if one.met is not None]
    shown = [one for one in group if one.difference is not None]
    if not shown:
        return finding(group[0].model_copy(update={"regime": ""}), unit)
    if not known:
        one = shown[0]
        return (
            f"RMSE of {one.method} against that of {one.reference}, {one.where}: {_range(shown, unit)}; not judged: "
            f"{one.why_undecided}."
        )
    one, total = known[0], len(known)
    lower = [other for other in known if other.met]
    higher = [other for other in known if other.reversed]
    parts = [f"{word} beyond chance in {_where(some, total)}" for word, some in (("lower", lower), ("higher", higher))]
    return (
        f"RMSE of {one.method} against that of {one.reference}, {one.where}: {' and '.join(parts)}; "
        f"{_range(known, unit)}."
    )


def _where(group: Sequence[Goal], total: int) -> str:
    if not group or len(group) > MOST_NAMED:
        return f"{len(group)} of {total} regimes"
    named = "; ".join(f"{one.regime}: {_figures(one)}" for one in group)
    return f"{len(group)} of {total} regimes ({named})"


def _summary(goals: Sequence[Goal], claims: int, unit: str, names_regime: bool) -> str:
    """All claims in one sentence, each regime counting as a test of its own."""
    several = names_regime and len(goals) > claims
    what = f"{len(goals)} tests of {claims} claims" if several else f"{claims} claims"
    held = [one for one in goals if one.met]
    reversed_ = [one for one in goals if one.reversed]
    untold = [one for one in goals if one.met is False and not one.reversed]
    unjudged = [one for one in goals if one.met is None and one.difference is not None]
    unknown = len(goals) - len(held) - len(reversed_) - len(untold) - len(unjudged)
    if len(unjudged) + unknown == len(goals) and unjudged:
        return f"Of {what} none is judged: {unjudged[0].why_undecided} ({_range(unjudged, unit)})."

    def named(group: Sequence[Goal]) -> str:
        texts = []
        for claim, ones in _by_claim(group).items():
            where = f", in {' and '.join(one.regime for one in ones)}" if names_regime else ""
            texts.append(f"{claim}{where} ({_figures(ones[0], unit) if len(ones) == 1 else _range(ones, unit)})")
        return f": {'; '.join(texts)}" if 0 < len(texts) <= MOST_NAMED else ""

    sentences = [f"Of {what} {_count(len(held))} hold{'s' if len(held) == 1 else ''} beyond chance{named(held)}."]
    sentences.append(
        f"{_count(len(reversed_)).capitalize()} {'is' if len(reversed_) == 1 else 'are'} reversed beyond chance"
        f"{named(reversed_)}."
    )
    if untold:
        sentences.append(f"{_count(len(untold))} cannot be told from chance ({_range(untold, unit)}).")
    if unjudged:
        sentences.append(f"{_count(len(unjudged))} {'is' if len(unjudged) == 1 else 'are'} not judged: "
                         f"{unjudged[0].why_undecided} ({_range(unjudged, unit)}).")  # fmt: skip
    if unknown:
        sentences.append(f"{_count(unknown).capitalize()} could not be evaluated.")
    return " ".join(sentences)


def _by_claim(goals: Sequence[Goal]) -> dict[str, list[Goal]]:
    groups: dict[str, list[Goal]] = {}
    for one in goals:
        groups.setdefault(one.claim, []).append(one)
    return groups


def _figures(one: Goal, unit: str = "") -> str:
    digits = digits_for(one.figures.difference)
    figure = signed(one.figures.difference, digits) + (f" {unit}" if unit else "")
    return f"{figure}, 95% interval {_between(one.figures.lower, one.figures.upper, digits)}, n = {one.n}"


def _between(low: float, high: float, digits: int) -> str:
    return f"{signed(low, digits)} to {signed(high, digits)}"


def _range(group: Sequence[Goal], unit: str) -> str:
    values = [one.figures.difference for one in group]
    digits = digits_for(max(map(abs, values)))
    if len(values) == 1:
        return f"difference {signed(values[0], digits)} {unit}, n = {group[0].n}"
    numbers = sorted({one.n for one in group})
    n = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return f"differences between {signed(min(values), digits)} and {signed(max(values), digits)} {unit}, n = {n}"


def _count(n: int) -> str:
    return "none" if n == 0 else str(n)
