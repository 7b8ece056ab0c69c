"""Combinations, bank pairs and designated experts, for any number of modalities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from permmoe.data.batch import observed_masks
from permmoe.data.kinds import KINDS
from permmoe.layers.input_kinds import INPUT_KINDS
from permmoe.modality import (
    MODALITY_KINDS,
    Modality,
    all_combinations,
    bank_pairs,
    combination_mask,
    combination_of,
    designated_expert,
)

NAMES = ("a", "b", "c", "d", "e", "f", "g", "h")
counts = st.integers(1, 8)


@given(counts)
def test_combinations_are_all_non_empty_subsets_with_the_fewest_modalities_first(n: int) -> None:
    combinations = all_combinations(NAMES[:n])
    assert len(set(combinations)) == len(combinations) == 2**n - 1
    sizes = [len(c) for c in combinations]
    assert sizes == sorted(sizes) and sizes[0] == 1
    assert all(c == tuple(sorted(c)) for c in combinations)


@given(counts, st.data())
def test_a_mask_and_its_combination_are_inverses(n: int, data: st.DataObject) -> None:
    mask = data.draw(st.integers(1, 2**n - 1))
    combination = combination_of(mask, NAMES[:n])
    assert combination_mask(combination, NAMES[:n]) == mask
    assert combination_mask(reversed(combination), NAMES[:n]) == mask


def test_a_name_outside_the_study_has_no_mask() -> None:
    with pytest.raises(ValueError, match="tau"):
        combination_mask(["t1", "tau"], ["t1", "flair"])


def test_each_visits_mask_is_that_of_its_observed_names() -> None:
    observed = torch.tensor([[c in combination for c in NAMES[:5]] for combination in all_combinations(NAMES[:5])])
    masks = observed_masks(observed).tolist()
    assert masks == [combination_mask(c, NAMES[:5]) for c in all_combinations(NAMES[:5])]


@given(counts)
def test_the_bank_has_exactly_the_pairs_of_an_observed_set_and_a_modality_outside_it(n: int) -> None:
    pairs = bank_pairs(n)
    assert set(pairs) == {
        (mask, m) for mask in range(1, 2**n) for m in range(n) if NAMES[m] not in combination_of(mask, NAMES[:n])
    }
    assert len(pairs) == len(set(pairs)) == n * (2 ** (n - 1) - 1)


def test_four_modalities_need_28_embeddings() -> None:
    assert len(bank_pairs(4)) == 28


@given(counts, st.integers(1, 40), st.data())
def test_a_designated_expert_exists_for_every_set_and_number_of_experts(n: int, e: int, data: st.DataObject) -> None:
    mask = data.draw(st.integers(1, 2**n - 1))
    expert = designated_expert(mask, n, e)
    assert 0 <= expert < e
    if e > 1:
        assert (expert == 0) == (mask == 2**n - 1)


@given(counts, st.integers(2, 40))
def test_incomplete_sets_share_the_other_experts_as_evenly_as_they_can(n: int, e: int) -> None:
    taken = [designated_expert(mask, n, e) for mask in range(1, 2**n - 1)]
    shares = [taken.count(expert) for expert in range(1, e)]
    assert max(shares) - min(shares) <= 1


def test_fifteen_combinations_of_four_modalities_have_fifteen_different_experts() -> None:
    assert {designated_expert(mask, 4, 16) for mask in range(1, 16)} == set(range(15))


def test_sets_that_lack_one_modality_come_before_those_that_lack_two() -> None:
    assert {designated_expert(0b1111 ^ 1 << m, 4, 16) for m in range(4)} == {1, 2, 3, 4}


@pytest.mark.parametrize("mask", [0, -1, 8])
def test_a_mask_that_is_no_set_of_modalities_has_no_designated_expert(mask: int) -> None:
    with pytest.raises(ValueError, match="not a non-empty subset of 3"):
        designated_expert(mask, 3, 5)


def test_an_unknown_kind_of_modality_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="unknown kind of modality 'tabula'; did you mean 'tabular'"):
        Modality(name="fluid", kind="tabula")


def test_every_kind_of_modality_can_be_read_and_encoded() -> None:
    assert set(MODALITY_KINDS) == set(KINDS) == set(INPUT_KINDS)
