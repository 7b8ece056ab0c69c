"""Surveys: nothing that ever left can be combined to be about fewer patients than the minimum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest

from permmoe.federated.release_account import ReleaseAccount, combination_groups
from permmoe.federated.survey_facts import COUNTED, PARTS, Facts
from permmoe.federated.survey_groups import survey_groups
from permmoe_simulation.attacks.isolation import isolated_groups, smallest_support

LEAST = 5
NAMES = ("t1", "flair", "pet")
FACTS = Facts(NAMES, (0.5, 4.5), has_outcome=True)
Released = list[frozenset[str]]


def patient(
    modalities: str, severity: int | None = 0, outcome: str = "known", part: str = "train", facts: Facts = FACTS
) -> int:
    """The facts of a patient."""
    names = modalities.split("+") if modalities else []
    own = COUNTED | sum(facts.modality_bits[name] for name in names)
    own |= 0 if severity is None or not facts.severity_bits else facts.severity_bits[severity]
    own |= facts.outcome_bits.get(outcome, 0)
    return own | (facts.part_bits[part] if outcome == "known" and part else 0)


def told(labels: Mapping[str, int], facts: Facts = FACTS) -> Counter[str]:
    """What would leave: the number of patients by what is told of them."""
    return Counter(facts.described(label).name for label in labels.values())


def told_sets(labels: Mapping[str, int], facts: Facts = FACTS) -> Released:
    """The patients behind each number that leaves."""
    sets: dict[str, set[str]] = {}
    for name, label in labels.items():
        sets.setdefault(facts.described(label).name, set()).add(name)
    return [frozenset(members) for members in sets.values()]


def evaluation_sets(labels: Mapping[str, int]) -> Released:
    """The patients behind each combination's sum of an evaluation."""
    combinations = range(1, 1 << len(NAMES))
    return [s for c in combinations if (s := frozenset(p for p, mask in labels.items() if mask & c == c))]


class Cohort:
    """Random patients of a small hospital, who come, go, and are examined and seen again."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.patients: dict[str, tuple[int, int, str, str]] = {}
        self.come(int(self.rng.integers(3, 60)))

    def come(self, n: int) -> None:
        for _ in range(n):
            known = self.rng.random() < 0.7
            part = str(self.rng.choice(PARTS, p=(0.6, 0.2, 0.2))) if known else ""
            what = (int(self.rng.integers(1, 8)), int(self.rng.integers(3)), "known" if known else "unknown", part)
            self.patients[f"p{self.rng.integers(10**9)}"] = what

    def live_on(self) -> None:
        for name in self.rng.permutation(sorted(self.patients))[: int(self.rng.integers(0, 4))]:
            self.patients.pop(name)
        for name in self.rng.permutation(sorted(self.patients))[: int(self.rng.integers(0, 3))]:
            mask, severity, _, _ = self.patients[name]
            self.patients[name] = (mask | int(self.rng.integers(1, 8)), severity, "known", "train")
        self.come(int(self.rng.integers(0, 4)))

    def facts(self, facts: Facts) -> dict[str, int]:
        """What a survey with these facts may tell of each; it may ask for other groups of severity or none."""
        found = {}
        for name, (mask, severity, outcome, part) in self.patients.items():
            own = "+".join(m for j, m in enumerate(NAMES) if mask >> j & 1 and m in facts.modalities)
            found[name] = patient(own, min(severity, facts.n_severities - 1), outcome, part, facts)
        return found

    def part(self, part: str, seen: int) -> dict[str, int]:
        """The observed sets of a part of the split, as a study of some modalities sees them."""
        return {name: mask & seen for name, (mask, _, _, own) in self.patients.items() if own == part and mask & seen}


OTHERS = (
    FACTS,
    Facts(NAMES, (2.0,), has_outcome=True),
    Facts(NAMES, (), has_outcome=False),
    Facts(("t1",), (0.5, 4.5), has_outcome=True),
    Facts(("t1", "pet"), (1.0, 2.0, 3.0), has_outcome=False),
)


def _all_that_leaves(seed: int) -> Released:
    """Of surveys and studies in a random order, with patients who come and are withdrawn between."""
    cohort, account, released = Cohort(seed), ReleaseAccount(), Released()
    for _ in range(int(cohort.rng.integers(1, 6))):
        cohort.live_on()
        if cohort.rng.random() < 0.6:
            facts = OTHERS[int(cohort.rng.integers(len(OTHERS)))]
            present = cohort.facts(facts)
            labels = survey_groups(facts, account, present, LEAST)
            assert all(label and present[name] & label == label for name, label in labels.items())
            released += told_sets(labels, facts)
        else:
            part, seen = str(cohort.rng.choice(PARTS)), int(cohort.rng.integers(1, 8))
            labels = combination_groups(account, cohort.part(part, seen), LEAST)
            released += evaluation_sets(labels)
        assert account.admits(labels, LEAST)
        account = account.after(labels)
    return released


@pytest.mark.parametrize("twenty", range(30))
def test_attack_no_combination_of_surveys_and_studies_is_about_few_patients(twenty: int) -> None:
    for seed in range(20 * twenty, 20 * twenty + 20):
        assert smallest_support(_all_that_leaves(seed), below=LEAST) is None, seed


def test_attack_a_margin_less_its_parts() -> None:
    """17 patients with T1, of whom 15 are mild: the two others would be the margin less the part."""
    present = {f"mild-{i}": patient("t1") for i in range(15)} | {f"severe-{i}": patient("t1", 2) for i in range(2)}
    numbers = told(survey_groups(FACTS, ReleaseAccount(), present, LEAST))
    assert numbers == {"t1/0/known": 12, "t1/any/known": 5}


def test_attack_nested_combinations() -> None:
    """One patient has T1 alone, 20 have T1 and FLAIR."""
    present = {f"both-{i}": patient("t1+flair") for i in range(20)} | {"one": patient("t1")}
    labels = survey_groups(FACTS, ReleaseAccount(), present, LEAST)
    assert told(labels) == {"t1+flair/0/known": 16, "t1/any/known": 5}
    assert smallest_support(told_sets(labels), below=LEAST) is None


def test_attack_the_same_patients_with_other_bounds_of_severity() -> None:
    """Scores 0.0, 0.1 … 3.9: bounds of 2.0 and then of 2.1 would tell about the one with 2.0."""
    one, other = Facts(NAMES, (2.0,), has_outcome=False), Facts(NAMES, (2.1,), has_outcome=False)
    scores = {f"p{i:02}": i / 10 for i in range(40)}

    def labels(facts: Facts, account: ReleaseAccount) -> Mapping[str, int]:
        found = {name: patient("t1", facts.severity_of(score), "", "", facts) for name, score in scores.items()}
        return survey_groups(facts, account, found, LEAST)

    first = labels(one, ReleaseAccount())
    assert told(first, one) == {"t1/0/any": 20, "t1/1/any": 20}
    account = ReleaseAccount().after(first)
    second = labels(other, account)
    assert told(second, other) == {"t1/0/any": 20, "t1/1/any": 15, "t1/any/any": 5}
    assert smallest_support([*told_sets(first, one), *told_sets(second, other)], below=LEAST) is None


def test_attack_an_outcome_that_becomes_known_between_two_surveys() -> None:
    before = {f"p{i:02}": patient("t1", 0, "unknown") for i in range(20)}
    first = survey_groups(FACTS, ReleaseAccount(), before, LEAST)
    account = ReleaseAccount().after(first)
    later = survey_groups(FACTS, account, {**before, "p07": patient("t1", 0, "known")}, LEAST)
    assert told(first) == {"t1/0/unknown": 20} and told(later) == {"t1/0/unknown": 15, "t1/0/any": 5}
    assert smallest_support([*told_sets(first), *told_sets(later)], below=LEAST) is None


def test_attack_a_patient_who_comes_or_is_withdrawn_between_two_surveys() -> None:
    before = {f"p{i:02}": patient("t1") for i in range(20)}
    account = ReleaseAccount().after(survey_groups(FACTS, ReleaseAccount(), before, LEAST))
    come = survey_groups(FACTS, account, {**before, "new": patient("t1")}, LEAST)
    gone = survey_groups(FACTS, account, {name: own for name, own in before.items() if name != "p07"}, LEAST)
    assert told(come) == {"t1/0/known": 20} and "new" not in come
    assert told(gone) == {"t1/0/known": 15}


def test_attack_a_survey_against_exact_numbers_of_training_visits_finds_no_severity() -> None:
    """No account covers what a plain study says of its training visits; whom that isolates has no severity told."""
    n_isolated = 0
    for seed in range(80):
        cohort = Cohort(seed)
        labels = survey_groups(FACTS, ReleaseAccount(), cohort.facts(FACTS), LEAST)
        trained = cohort.part("train", 7)
        exact = [frozenset(n for n, mask in trained.items() if mask & c == c) for c in range(1, 8)]
        exact += [frozenset(n for n, mask in trained.items() if mask == c) for c in range(1, 8)]
        released = [*(s for s in exact if len(s) >= LEAST), *told_sets(labels)]
        for few in (found.members for found in isolated_groups(released) if len(found.members) < LEAST):
            n_isolated += 1
            assert all(FACTS.described(labels.get(name, COUNTED)).severity is None for name in few), seed
    assert n_isolated > 40


def test_of_patients_who_count_with_fewer_modalities_no_severity_is_told() -> None:
    for seed in range(50):
        present = Cohort(seed).facts(FACTS)
        for name, label in survey_groups(FACTS, ReleaseAccount(), present, LEAST).items():
            if (present[name] ^ label) & FACTS.modality_mask:
                assert not label & FACTS.severity_mask


def test_groups_of_the_minimum_are_told_in_full() -> None:
    own = {"t1": patient("t1", 1), "t1+flair": patient("t1+flair", 2, "unknown"), "pet": patient("pet", 0)}
    present = {f"{name}-{i}": facts for name, facts in own.items() for i in range(LEAST)}
    assert survey_groups(FACTS, ReleaseAccount(), present, LEAST) == present


def test_fewer_patients_than_the_minimum_are_not_counted_at_all() -> None:
    assert survey_groups(FACTS, ReleaseAccount(), {f"p{i}": patient("t1") for i in range(4)}, LEAST) == {}


def test_a_survey_leaves_the_parts_of_a_later_study_whole() -> None:
    """Of 100 patients, some of every part and severity, a validation that follows the survey counts as many."""
    rng = np.random.default_rng(7)
    modalities, parts = rng.choice(["t1", "t1+flair"], 100), rng.choice(PARTS, 100, p=(0.6, 0.2, 0.2))
    people = {f"p{i:03}": (str(modalities[i]), int(rng.integers(3)), str(parts[i])) for i in range(100)}
    present = {name: patient(own, severity, "known", part) for name, (own, severity, part) in people.items()}
    account = ReleaseAccount().after(survey_groups(FACTS, ReleaseAccount(), present, LEAST))
    for part in PARTS:
        observed = {name: 1 if own == "t1" else 3 for name, (own, _, of) in people.items() if of == part}
        without = combination_groups(ReleaseAccount(), observed, LEAST)
        after = combination_groups(account, observed, LEAST)
        assert len(after) == len(without) == len(observed)
