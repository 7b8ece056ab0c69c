"""What a study found, in sentences: its claims, evaluated by paired differences, whichever way they went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from permmoe_simulation.report.content import digits_for, number, signed
from permmoe_simulation.studies.study import MEAN, Claim
from permmoe_simulation.summary import Goal

MOST_CLAIMS_WITHOUT_SUMMARY = 2
"""More claims than these are led by a sentence that sums them up."""
MOST_NAMED = 3
"""Claims or regimes that a sentence names; where there are more, it counts them."""


def evaluated_goals(claims: Sequence[Claim], comparisons: pd.DataFrame, labels: Mapping[str, str]) -> list[Goal]:
    """Each claim with its paired difference in every regime; met where the whole interval lies below zero.

    Where no subject was predicted by both methods, or a method did not finish, `met` and the figures are None.
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
            found = {"n": int(row.n), "difference": row.difference, "lower": row.lower, "upper": row.upper,
                     "met": bool(row.upper < 0)} if row.n else {}  # fmt: skip
            goals.append(unknown.model_copy(update={"regime": row.regime, **found}))
    return goals


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
    if goal.met is None:
        return f"{prefix}{goal.claim}: not evaluated, since no test visit was predicted by both."
    d, low, high = goal.figures
    digits = digits_for(d)
    verdict = "excludes" if low > 0 or high < 0 else "includes"
    return (
        f"{prefix}RMSE of {goal.method} is {number(abs(d), digits)} {unit} {'lower' if d < 0 else 'higher'} than "
        f"that of {goal.reference}, {goal.where} (95% interval {_between(low, high, digits)}, "
        f"n = {goal.n}; it {verdict} zero)."
    )


def _over_regimes(group: Sequence[Goal], unit: str) -> str:
    """One claim in several regimes."""
    known = [one for one in group if one.met is not None]
    if not known:
        return finding(group[0].model_copy(update={"regime": ""}), unit)
    one, total = known[0], len(known)
    lower = [other for other in known if other.figures.upper < 0]
    higher = [other for other in known if other.figures.lower > 0]
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
    reversed_ = [one for one in goals if one.met is not None and one.figures.lower > 0]
    undecided = [one for one in goals if one.met is False and one.figures.lower <= 0]
    unknown = len(goals) - len(held) - len(reversed_) - len(undecided)

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
    if undecided:
        verb = "interval includes" if len(undecided) == 1 else "intervals include"
        sentences.append(f"For {_count(len(undecided))} the {verb} zero ({_range(undecided, unit)}).")
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
