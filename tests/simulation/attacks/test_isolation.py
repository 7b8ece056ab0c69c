"""The searches of the attacks find what linear algebra allows, and what is found is there."""

from __future__ import annotations

import numpy as np
import pytest

from permmoe_simulation.attacks.isolation import isolated_groups, smallest_support

TWENTY = frozenset(f"p{i}" for i in range(20))


def test_the_patient_between_two_nested_sums_is_found() -> None:
    sets = [TWENTY | {"one"}, TWENTY]
    assert smallest_support(sets, below=5) == 1 and smallest_support([TWENTY, TWENTY], below=5) is None
    [alone] = [one for one in isolated_groups(sets) if one.members == {"one"}]
    assert alone.weights.round(9).tolist() == [1.0, -1.0]


def test_a_patient_that_three_sums_are_needed_for_is_found() -> None:
    a, b = (frozenset(f"{name}{i}" for i in range(9)) for name in "ab")
    sets = [a, b, a | b | {"one"}]
    assert smallest_support(sets, below=5) == 1
    assert {frozenset({"one"}), a, b} == {one.members for one in isolated_groups(sets)}


def test_groups_that_only_leave_together_are_not_isolated() -> None:
    a, b, c = (frozenset(f"{name}{i}" for i in range(3)) for name in "abc")
    assert isolated_groups([a | b, b | c]) == [] and smallest_support([a | b, b | c], below=5) is None
    assert smallest_support([a | b, b | c], below=7) == 6


@pytest.mark.parametrize("seed", range(30))
def test_what_is_isolated_is_recovered_from_the_sums_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = {f"p{i}": float(rng.normal()) for i in range(13)}
    sets = [frozenset(p for p in values if rng.random() < 0.6) for _ in range(7)]
    sums = np.array([sum(values[p] for p in one) for one in sets])
    for found in isolated_groups(sets):
        assert found.weights @ sums == pytest.approx(sum(values[p] for p in found.members))
