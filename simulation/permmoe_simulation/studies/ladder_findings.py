"""What the ladder of clinical references says of each model, in sentences, whichever way it went."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from permmoe.data.visits import Visit
from permmoe_simulation.report.content import count, digits_for, listed, number, signed
from permmoe_simulation.studies.ladder import Ladder, column_facts
from permmoe_simulation.studies.ladder_results import HeldAgainstLadder
from permmoe_simulation.studies.study import MEAN, StudyConfig

NO_LADDER_FINISHED = (
    "No model could be held against the ladder of clinical references: no test subject was predicted by both."
)

MOST_NAMED = 3
"""Models that do not beat the ladder and have a sentence each; more are summed up."""


def ladder_sentences(study: StudyConfig, held: Sequence[HeldAgainstLadder], visits: Iterable[Visit]) -> list[str]:
    """A sentence on all models, one on each or on those that do not beat it together, and one on columns that say
    nothing; none without a ladder."""
    if study.ladder is None:
        return []
    labels, unit, several = study.labels, study.outcome.unit, len(study.regimes) > 1
    by_model = _by_model([one for one in held if one.combination == MEAN])
    behind = [name for name, group in by_model.items() if {one.outcome for one in group} == {"does not beat"}]
    summed_up = behind if len(behind) > MOST_NAMED else []
    sentences = [
        _over_regimes(labels[name], group, labels.__getitem__, unit)
        if several
        else _sentence(labels[name], group[0], labels.__getitem__, unit)
        for name, group in by_model.items()
        if name not in summed_up
    ]
    if summed_up:
        others = [one for name in summed_up for one in by_model[name]]
        sentences.append(f"Those that do not beat it are no better than it beyond chance: {_range(others, unit)}.")
    named = [(labels[name], group) for name, group in by_model.items()]
    first = _of_all(named, several) if named else NO_LADDER_FINISHED
    unread = columns_left_out(study.ladder, visits)
    return [first, *sentences, *([unread] if unread else [])]


def columns_left_out(ladder: Ladder, visits: Iterable[Visit]) -> str:
    """Which columns of the ladder say nothing and why, as a sentence; empty where all say something."""
    reasons: dict[str, list[str]] = {}
    facts = column_facts(ladder, visits)
    for fact in facts:
        if fact.left_out:
            reasons.setdefault(fact.left_out, []).append(fact.column)
    if not reasons:
        return ""
    told = "; ".join(f"{listed(columns)} ({why})" for why, columns in reasons.items())
    rest = (
        "They are left with the score at the visit and, where it is known, age."
        if all(fact.left_out or fact.column == "age_years" for fact in facts)
        else ""
    )
    return f"The clinical references learn nothing from {told}. {rest}".strip()


def _by_model(held: Sequence[HeldAgainstLadder]) -> dict[str, list[HeldAgainstLadder]]:
    groups: dict[str, list[HeldAgainstLadder]] = {}
    for one in held:
        groups.setdefault(one.method, []).append(one)
    return groups


def _of_all(models: Sequence[tuple[str, Sequence[HeldAgainstLadder]]], several: bool) -> str:
    """All models in one sentence; none that does not beat the ladder goes unnamed."""
    beating, not_beating, unjudged = [], [], []
    for label, group in models:
        judged = [one for one in group if one.outcome != "not judged"]
        wins = sum(one.outcome == "beats" for one in judged)
        if wins:
            beating.append(f"{label} (in {wins} of {count(len(judged), 'regime')})" if several else label)
        elif judged:
            not_beating.append(label)
        else:
            unjudged.append(label)
    parts = [f"{listed(beating)} beat{'s' * (len(beating) == 1)} its top beyond chance"] if beating else []
    if not_beating:
        one = len(not_beating) == 1
        nowhere = " in any regime" if several else ""
        parts.append(f"{listed(not_beating)} do{'es' * one} not beat {'it' if beating else 'its top'}{nowhere}")
    if unjudged:
        reasons = {one.why_not_judged: None for label, group in models if label in unjudged for one in group}
        parts.append(f"{listed(unjudged)} {'is' if len(unjudged) == 1 else 'are'} not judged ({'; '.join(reasons)})")
    return f"Against the ladder of clinical references, averaged over combinations: {'; '.join(parts)}."


def _sentence(label: str, one: HeldAgainstLadder, label_of: Callable[[str], str], unit: str) -> str:
    digits = digits_for(one.difference)
    figure = f"{number(abs(one.difference), digits)} {unit} {'lower' if one.difference < 0 else 'higher'}"
    top = f"the ladder's top, {label_of(one.top)}"
    if one.outcome == "not judged":
        return f"Whether {label} beats {top}, is not judged: {one.why_not_judged} (its RMSE is {figure}, n = {one.n})."
    between = f"95% interval {_between(one, digits)}, n = {one.n}, {one.seeds} training seeds"
    if one.outcome == "beats":
        return f"{label} beats {top}: its RMSE is {figure} ({between}; beyond chance against every reference)."
    because = "; not beyond chance against every reference" if one.difference < 0 else ""
    return f"{label} does not beat {top}: its RMSE is {figure} ({between}{because})."


def _over_regimes(label: str, group: Sequence[HeldAgainstLadder], label_of: Callable[[str], str], unit: str) -> str:
    """One model in several regimes, each of which has a top of its own."""
    judged = [one for one in group if one.outcome != "not judged"]
    if not judged:
        return (
            f"Whether {label} beats the ladder's top is not judged in any regime: {group[0].why_not_judged} "
            f"({_range(group, unit)})."
        )
    wins = [one for one in judged if one.outcome == "beats"]
    others = [one for one in judged if one.outcome == "does not beat"]
    parts = []
    if wins:
        named = "; ".join(f"{one.regime}: {label_of(one.top)}, {_figures(one)}" for one in wins)
        parts.append(f"{label} beats the ladder's top in {len(wins)} of {count(len(judged), 'regime')} ({named})")
    if others:
        what = (
            f"does not beat it in {listed([one.regime for one in others])}"
            if wins
            else (f"{label} does not beat the ladder's top in any regime")
        )
        parts.append(f"{what} ({_range(others, unit)})")
    if len(judged) < len(group):
        unjudged = [one for one in group if one.outcome == "not judged"]
        parts.append(f"is not judged in {listed([one.regime for one in unjudged])} ({unjudged[0].why_not_judged})")
    return f"{listed(parts)}."


def _figures(one: HeldAgainstLadder) -> str:
    digits = digits_for(one.difference)
    return f"{signed(one.difference, digits)}, 95% interval {_between(one, digits)}, n = {one.n}"


def _between(one: HeldAgainstLadder, digits: int) -> str:
    return f"{signed(one.lower, digits)} to {signed(one.upper, digits)}"


def _range(group: Sequence[HeldAgainstLadder], unit: str) -> str:
    values, numbers = [one.difference for one in group], sorted({one.n for one in group})
    digits = digits_for(max(map(abs, values)))
    n = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    if len(values) == 1:
        return f"difference {signed(values[0], digits)} {unit}, n = {n}"
    return f"differences between {signed(min(values), digits)} and {signed(max(values), digits)} {unit}, n = {n}"
