"""Sums that a server would subtract from one another: no site helps to unmask them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from permmoe.federated.release_account import ReleaseAccount
from permmoe.federated.secure.session import SecureSumRefused
from tests.support.summed_on_a_table import BLOCKS, RULES, Sum, numbers, plain
from tests.support.summed_on_a_table import SEVEN as KEYS

ALL = {name: numbers(name, *BLOCKS) for name in KEYS}


AFTER_ALL = ReleaseAccount().after(dict.fromkeys(KEYS, 1))
"""A sum over all seven sites was unmasked before."""


def test_attack_participants_that_differ_by_one_from_those_of_an_earlier_sum() -> None:
    sum_ = Sum.advertised(list(KEYS)[:6], account=AFTER_ALL)
    with pytest.raises(SecureSumRefused, match="fewer than 2 sites by subtraction"):
        sum_.shared()


def test_attack_a_site_said_to_have_shared_nothing_so_that_the_sum_differs_by_it() -> None:
    sum_ = Sum.advertised(list(KEYS), account=AFTER_ALL).shared({"site-06"})
    with pytest.raises(SecureSumRefused, match="fewer than 2 sites by subtraction"):
        sum_.masked(ALL)


def test_attack_a_site_said_to_be_lost_so_that_the_sum_differs_by_it() -> None:
    sum_ = Sum.advertised(list(KEYS), account=AFTER_ALL).shared().masked(ALL)
    without_one, without_two = list(KEYS)[:6], list(KEYS)[:5]
    with pytest.raises(SecureSumRefused, match="fewer than 2 sites by subtraction"):
        sum_.sites["site-00"].count(without_one)
    assert set(sum_.sites["site-01"].count(without_two).mask_keys) == {"site-05", "site-06"}


def test_attack_two_sites_joined_and_then_one_of_them_left_out() -> None:
    five_then_all = ReleaseAccount().after(dict.fromkeys(list(KEYS)[:5], 1)).after(dict.fromkeys(KEYS, 1))
    sum_ = Sum.advertised(list(KEYS)[:6], account=five_then_all)
    with pytest.raises(SecureSumRefused, match="by subtraction"):
        sum_.shared()


@pytest.mark.parametrize("least", [1, 2, 3])
def test_sums_that_differ_by_as_many_sites_as_the_rule_says_are_given(least: int) -> None:
    rules = replace(RULES, min_cohort_difference=least)
    names = list(KEYS)[: 7 - least]
    sum_ = Sum.advertised(names, rules, AFTER_ALL).shared().masked(ALL).counted()
    expected = plain(ALL, set(KEYS) - set(names))
    assert all(np.array_equal(values, expected[block]) for block, values in sum_.unmasked().values.items())
