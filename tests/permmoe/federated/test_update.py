"""Updates are linear: what a secure sum needs, and why a sum of sites is again an update."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from permmoe.federated.update import ModuleUpdate

WHOLE = st.integers(-1000, 1000).map(float)


def update(values: list[float], support: float) -> ModuleUpdate:
    return ModuleUpdate(torch.tensor(values), support)


def same(a: ModuleUpdate, b: ModuleUpdate) -> bool:
    return torch.equal(a.weighted_delta, b.weighted_delta) and (a.support, a.sites) == (b.support, b.sites)


UPDATES = st.builds(update, st.lists(WHOLE, min_size=7, max_size=7), st.integers(1, 99).map(float))


@given(UPDATES, UPDATES, UPDATES)
def test_addition_is_commutative_and_associative_where_it_is_exact(
    a: ModuleUpdate, b: ModuleUpdate, c: ModuleUpdate
) -> None:
    assert same(a + b, b + a)
    assert same((a + b) + c, a + (b + c))


def test_an_update_holds_support_times_change() -> None:
    made = ModuleUpdate.of(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([2.0, 2.0, 3.0]), 10.0)
    assert made.weighted_delta.tolist() == [10.0, 0.0, -20.0]
    assert (made.support, made.sites) == (10.0, 1)


def test_sites_are_counted() -> None:
    a = ModuleUpdate.of(torch.zeros(3), torch.ones(3), 10.0)
    assert (a + a).sites == 2
