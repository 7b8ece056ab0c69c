"""What a study found, in sentences: its claims, judged by paired differences, whichever way they went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from permmoe_simulation.report.content import digits_for, number, signed
from permmoe_simulation.studies.study import Claim

Judged = Mapping[str, Any]
"""A claim in one regime, as `judge_claims` returns it and summary.json keeps it."""

MOST_GROUPS = 2
"""Claims that stand for themselves; more are led by a sentence that sums them up."""
MOST_NAMED = 3


def judge_claims(claims: Sequence[Claim], comparisons: pd.DataFrame, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each claim with its paired difference in every regime; met where the whole interval lies below zero.

    Without a subject, or with a method that did not finish, there is nothing to judge: `met` and the figures are None.
    """
    nothing = {"regime": "", "n": 0, "difference": None, "lower": None, "upper": None, "met": None}
    judged = []
    for claim in claims:
        where = "averaged over combinations" if claim.combination == "mean" else f"with {claim.combination}"
        names = {"method": labels[claim.method], "reference": labels[claim.reference], "where": where}
        text = f"{names['method']} beats {names['reference']}, {where}"
        rows = comparisons
        if len(comparisons):
            rows = comparisons[
                comparisons.method.eq(claim.method)
                & comparisons.reference.eq(claim.reference)
                & comparisons.combination.eq(claim.combination)
                & comparisons.stratum.eq("all")
            ]
        if not len(rows):
            judged.append({"claim": text, **names, **nothing})
        for row in rows.itertuples():
            figures = {"n": int(row.n), "difference": row.difference, "lower": row.lower, "upper": row.upper,
                       "met": bool(row.upper < 0)} if row.n else {}  # fmt: skip
            judged.append({"claim": text, **names, **nothing, "regime": row.regime, **figures})
    return judged


def findings(judged: Sequence[Judged], unit: str, *, names_regime: bool) -> list[str]:
    """A sentence a claim, its regimes together; where claims are many, led by one that sums them up."""
    by_claim = _by_claim(judged)
    sentences = [
        _over_regimes(group, unit) if len(group) > 1 else finding(group[0], unit, names_regime=names_regime)
        for group in by_claim.values()
    ]
    if len(by_claim) <= MOST_GROUPS:
        return sentences
    return [_summary(judged, len(by_claim), unit, names_regime), *sentences]


def finding(judged: Judged, unit: str, *, names_regime: bool = False) -> str:
    """A claim's outcome in one regime."""
    told = f"{judged['regime']}: " if names_regime and judged["regime"] else ""
    if judged["met"] is None:
        return f"{told}{judged['claim']}: not judged, since no test visit was predicted by both."
    d, low, high = judged["difference"], judged["lower"], judged["upper"]
    digits = digits_for(d)
    verdict = "excludes" if low > 0 or high < 0 else "includes"
    return (
        f"{told}RMSE of {judged['method']} is {number(abs(d), digits)} {unit} {'lower' if d < 0 else 'higher'} than "
        f"that of {judged['reference']}, {judged['where']} (95% interval {_between(low, high, digits)}, "
        f"n = {judged['n']}; it {verdict} zero)."
    )


def _over_regimes(group: Sequence[Judged], unit: str) -> str:
    """One claim in several regimes."""
    known = [one for one in group if one["met"] is not None]
    if not known:
        return finding({**group[0], "regime": ""}, unit)
    one, total = known[0], len(known)
    lower = [other for other in known if other["upper"] < 0]
    higher = [other for other in known if other["lower"] > 0]
    parts = [f"{word} beyond chance in {_where(some, total)}" for word, some in (("lower", lower), ("higher", higher))]
    return (
        f"RMSE of {one['method']} against that of {one['reference']}, {one['where']}: {' and '.join(parts)}; "
        f"{_range(known, unit)}."
    )


def _where(group: Sequence[Judged], total: int) -> str:
    if not group or len(group) > MOST_NAMED:
        return f"{len(group)} of {total} regimes"
    told = "; ".join(f"{one['regime']}: {_figures(one)}" for one in group)
    return f"{len(group)} of {total} regimes ({told})"


def _summary(judged: Sequence[Judged], claims: int, unit: str, names_regime: bool) -> str:
    """All claims in one sentence, each regime counting as a test of its own."""
    several = names_regime and len(judged) > claims
    what = f"{len(judged)} tests of {claims} claims" if several else f"{claims} claims"
    held = [one for one in judged if one["met"]]
    reversed_ = [one for one in judged if one["met"] is not None and one["lower"] > 0]
    open_ = [one for one in judged if one["met"] is False and one["lower"] <= 0]
    unknown = len(judged) - len(held) - len(reversed_) - len(open_)

    def named(group: Sequence[Judged]) -> str:
        texts = []
        for claim, ones in _by_claim(group).items():
            where = f", in {' and '.join(one['regime'] for one in ones)}" if names_regime else ""
            texts.append(f"{claim}{where} ({_figures(ones[0], unit) if len(ones) == 1 else _range(ones, unit)})")
        return f": {'; '.join(texts)}" if 0 < len(texts) <= MOST_NAMED else ""

    sentences = [f"Of {what} {_count(len(held))} hold{'s' if len(held) == 1 else ''} beyond chance{named(held)}."]
    sentences.append(
        f"{_count(len(reversed_)).capitalize()} {'is' if len(reversed_) == 1 else 'are'} reversed beyond chance"
        f"{named(reversed_)}."
    )
    if open_:
        verb = "interval includes" if len(open_) == 1 else "intervals include"
        sentences.append(f"For {_count(len(open_))} the {verb} zero ({_range(open_, unit)}).")
    if unknown:
        sentences.append(f"{_count(unknown).capitalize()} could not be judged.")
    return " ".join(sentences)


def _by_claim(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    groups: dict[str, list[Judged]] = {}
    for one in judged:
        groups.setdefault(one["claim"], []).append(one)
    return groups


def _figures(one: Judged, unit: str = "") -> str:
    digits = digits_for(one["difference"])
    figure = signed(one["difference"], digits) + (f" {unit}" if unit else "")
    return f"{figure}, 95% interval {_between(one['lower'], one['upper'], digits)}, n = {one['n']}"


def _between(low: float, high: float, digits: int) -> str:
    return f"{signed(low, digits)} to {signed(high, digits)}"


def _range(group: Sequence[Judged], unit: str) -> str:
    values = [one["difference"] for one in group]
    digits = digits_for(max(map(abs, values)))
    if len(values) == 1:
        return f"difference {signed(values[0], digits)} {unit}, n = {group[0]['n']}"
    numbers = sorted({one["n"] for one in group})
    n = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return f"differences between {signed(min(values), digits)} and {signed(max(values), digits)} {unit}, n = {n}"


def _count(n: int) -> str:
    return "none" if n == 0 else str(n)
