"""The release account: no linear combination of admitted sums is about fewer members than the minimum."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest

from permmoe.federated.release_account import (
    ReleaseAccount,
    admissible_sites,
    combination_groups,
    leaving_together,
)
from permmoe_simulation.attacks.isolation import smallest_support

LEAST = 5
NAMES = 4


def combination_sets(labels: Mapping[str, int]) -> list[frozenset[str]]:
    """The patients behind each combination's sum: those whose set of modalities holds the combination."""
    combinations = range(1, 1 << NAMES)
    return [frozenset(p for p, mask in labels.items() if mask & c == c) for c in combinations]


@pytest.mark.parametrize("ten", range(100))
def test_no_random_sequence_of_queries_isolates_fewer_than_the_minimum(ten: int) -> None:
    for seed in range(10 * ten, 10 * ten + 10):
        assert smallest_support(_released_by_random_questions(seed), below=LEAST) is None


def _released_by_random_questions(seed: int) -> list[frozenset[str]]:
    rng = np.random.default_rng(seed)
    account, released = ReleaseAccount(), list[frozenset[str]]()
    patients = {f"p{i:03}": int(rng.integers(1, 1 << NAMES)) for i in range(int(rng.integers(3, 60)))}
    for _ in range(int(rng.integers(1, 5))):
        # Between queries patients come, go, are scanned again, and the study looks at some modalities only.
        for patient in rng.permutation(sorted(patients))[: int(rng.integers(0, 4))]:
            patients.pop(patient)
        for _ in range(int(rng.integers(0, 4))):
            patients[f"n{rng.integers(10**6)}"] = int(rng.integers(1, 1 << NAMES))
        mask = int(rng.integers(1, 1 << NAMES))
        observed = {patient: seen & mask for patient, seen in patients.items() if seen & mask}
        labels = combination_groups(account, observed, LEAST)
        assert account.admits(labels, LEAST)
        assert all(label and observed[patient] & label == label for patient, label in labels.items())
        released += [s for s in combination_sets(labels) if s]
        account = account.after(labels)
    return released


def test_a_group_of_the_minimum_keeps_every_combination() -> None:
    observed = {f"all-{i}": 7 for i in range(LEAST)} | {f"two-{i}": 5 for i in range(LEAST)}
    assert combination_groups(ReleaseAccount(), observed, LEAST) == observed


def test_a_patient_whose_set_nobody_shares_counts_with_what_others_share() -> None:
    observed = {f"two-{i}": 5 for i in range(20)} | {"one": 7}
    labels = combination_groups(ReleaseAccount(), observed, LEAST)
    assert labels == {**dict.fromkeys(observed, 5)}


def test_few_patients_are_left_out_rather_than_many_patients_made_coarse() -> None:
    observed = {f"three-{i}": 7 for i in range(20)} | {"one": 5}
    labels = combination_groups(ReleaseAccount(), observed, LEAST)
    assert labels == {f"three-{i}": 7 for i in range(20)}


def test_sums_over_the_same_groups_are_admitted_again_and_again() -> None:
    observed = {f"p{i}": 3 for i in range(9)}
    account = ReleaseAccount()
    for _ in range(3):
        labels = combination_groups(account, observed, LEAST)
        assert labels == observed and account.admits(labels, LEAST)
        account = account.after(labels)
    assert set(account.groups.values()) == {1}


def test_one_more_patient_waits_and_a_withdrawn_one_takes_others_along() -> None:
    observed = {f"p{i}": 3 for i in range(12)}
    account = ReleaseAccount().after(observed)
    assert combination_groups(account, {**observed, "new": 3}, LEAST) == observed
    without = {patient: mask for patient, mask in observed.items() if patient != "p3"}
    assert not account.admits(without, LEAST)
    labels = combination_groups(account, without, LEAST)
    assert len(labels) == 7 and account.admits(labels, LEAST)


def test_a_group_that_cannot_be_divided_is_left_out_with_its_withdrawn_patient() -> None:
    observed = {f"p{i}": 3 for i in range(9)}
    account = ReleaseAccount().after(observed)
    del observed["p3"]
    assert combination_groups(account, observed, LEAST) == {}


def test_a_site_that_raises_its_minimum_gives_small_groups_no_more() -> None:
    observed = {f"p{i}": 1 for i in range(6)}
    account = ReleaseAccount().after(observed)
    assert not account.admits(observed, 7) and combination_groups(account, observed, 7) == {}


def test_sites_take_part_so_that_no_two_sums_differ_by_one_of_them() -> None:
    account = ReleaseAccount().after(dict.fromkeys("abcdef", 1))
    assert admissible_sites(account, "abcdef", 2) == tuple("abcdef")
    assert admissible_sites(account, "abcde", 2) == tuple("abcd")
    assert admissible_sites(account, "abcdefg", 2) == tuple("abcdef")
    assert admissible_sites(account, "abcdefgh", 2) == tuple("abcdefgh")
    assert admissible_sites(account, "a", 2) == ()
    assert admissible_sites(account, "abcde", 1) == tuple("abcde")


@pytest.mark.parametrize("seed", range(200))
def test_the_sites_that_are_chosen_are_the_most_that_the_account_admits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    account, everybody = ReleaseAccount(), "abcdefg"
    for _ in range(4):
        available = [site for site in everybody if rng.random() < 0.8]
        chosen = admissible_sites(account, available, 2)
        admitted = [
            len(some)
            for n in range(len(available) + 1)
            for some in itertools.combinations(available, n)
            if account.admits(dict.fromkeys(some, 1), 2)
        ]
        assert len(chosen) == max(admitted)
        account = account.after(dict.fromkeys(chosen, 1))


def test_a_member_that_leaves_alone_takes_others_of_its_group_along() -> None:
    groups = {f"p{i}": 1 + i // 12 for i in range(24)}
    assert leaving_together(groups, {"p3"}, LEAST) == {"p0", "p1", "p2", "p3", "p4"}
    assert leaving_together(groups, {f"p{i}" for i in range(6)}, LEAST) == {f"p{i}" for i in range(6)}
    assert leaving_together(groups, {"p3", "p13"}, LEAST) == {"p0", "p1", "p2", "p3", "p4"} | {
        "p12", "p13", "p14", "p15", "p16"
    }  # fmt: skip
    assert leaving_together(groups, set(), LEAST) == frozenset()


def test_a_group_of_which_too_few_would_stay_leaves_as_a_whole() -> None:
    groups = {f"p{i}": 1 for i in range(9)} | {f"q{i}": 2 for i in range(9)}
    assert leaving_together(groups, {"p3"}, LEAST) == {f"p{i}" for i in range(9)}


def test_members_of_no_group_and_of_groups_that_are_too_small_leave_as_one_group() -> None:
    groups = {"a": 0, "b": 0, "c": 1, "d": 2, "e": 3} | {f"p{i}": 4 for i in range(12)}
    assert leaving_together(groups, {"a"}, LEAST) == set("abcde")
    del groups["e"]
    assert leaving_together(groups, {"a"}, LEAST) == {*"abcd", "p0", "p1", "p2", "p3", "p4"}
    assert leaving_together(groups, {"p3"}, LEAST) == {"p0", "p1", "p2", "p3", "p4"}


@pytest.mark.parametrize("seed", range(200))
def test_no_comparison_of_sums_and_trained_sets_is_about_few_whoever_leaves(seed: int) -> None:
    """Members come into sums by combination and are trained on; some leave, again and again."""
    rng = np.random.default_rng(seed)
    everybody = {f"p{i}": int(rng.choice([1, 3, 3, 3, 7])) for i in range(int(rng.integers(2 * LEAST, 60)))}
    account = ReleaseAccount().after(combination_groups(ReleaseAccount(), everybody, LEAST))
    trained, sums = (
        [frozenset(everybody)],
        combination_sets(dict(combination_groups(ReleaseAccount(), everybody, LEAST))),
    )
    for _ in range(4):
        staying = sorted(trained[-1])
        some = rng.choice(staying, size=min(len(staying), int(rng.integers(1, 4))), replace=False) if staying else ()
        leaving = set(map(str, some))
        gone = leaving_together({member: account.groups.get(member, 0) for member in staying}, leaving, LEAST)
        assert leaving <= gone <= set(staying)
        trained.append(trained[-1] - gone)
        labels = combination_groups(account, {member: everybody[member] for member in trained[-1]}, LEAST)
        account = account.after(labels)
        sums += combination_sets(labels)
    assert smallest_support(trained, below=LEAST) is None and smallest_support(sums, below=LEAST) is None
    # Sums and trained sets together: whoever left in parts of a group would show here.
    alike = Counter((group, *(member in one for one in trained)) for member, group in account.groups.items())
    assert all(n >= LEAST for n in alike.values())
