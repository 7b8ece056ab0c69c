"""Parts are decided by subject or site alone: order of rows and other sites play no role."""

from collections import Counter
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from permmoe.config import SplitConfig
from permmoe.data.splits import assign_splits
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import DataError


def table(sizes: dict[str, int]) -> VisitTable:
    return VisitTable(
        tuple(Visit(f"{site}_{i}", site, "M000", 1.0, 0.0, 24.0) for site, n in sizes.items() for i in range(n))
    )


def parts(visits: VisitTable) -> dict[str, str]:
    return {v.subject_id: v.split for v in visits}


site_sizes = st.dictionaries(st.sampled_from(["011", "023", "037", "041", "067"]), st.integers(1, 23), min_size=1)


@settings(max_examples=60, deadline=None)
@given(sizes=site_sizes, seed=st.integers(0, 3), shuffler=st.randoms(use_true_random=False))
def test_order_of_rows_changes_no_part(sizes: dict[str, int], seed: int, shuffler: object) -> None:
    visits = list(table(sizes))
    shuffled = list(visits)
    shuffler.shuffle(shuffled)
    for scheme in ("subject", "site"):
        first = assign_splits(VisitTable(tuple(visits)), SplitConfig(seed=seed, scheme=scheme))
        second = assign_splits(VisitTable(tuple(shuffled)), SplitConfig(seed=seed, scheme=scheme))
        assert parts(first) == parts(second)
        assert [v.subject_id for v in second] == [v.subject_id for v in shuffled]


@settings(max_examples=60, deadline=None)
@given(sizes=site_sizes, seed=st.integers(0, 3))
def test_each_site_divides_itself_whatever_the_others_hold(sizes: dict[str, int], seed: int) -> None:
    together = parts(assign_splits(table(sizes), SplitConfig(seed=seed)))
    for site, n in sizes.items():
        alone = assign_splits(table({site: n}), SplitConfig(seed=seed))
        assert parts(alone) == {s: p for s, p in together.items() if s.startswith(site)}
        counts = Counter(v.split for v in alone)
        assert counts["train"] >= 1
        assert abs(counts["test"] - 0.25 * n) <= 0.5 or n == 1
        assert abs(counts["validation"] - 0.15 * n) <= 0.5


def test_seeds_give_different_parts() -> None:
    first, second = (assign_splits(table({"011": 40}), SplitConfig(seed=seed)) for seed in (0, 1))
    assert parts(first) != parts(second)


@settings(max_examples=60, deadline=None)
@given(sizes=site_sizes, seed=st.integers(0, 3))
@example(sizes={"023": 2, "011": 6, "037": 1}, seed=1)
def test_held_out_sites_are_wholly_held_out(sizes: dict[str, int], seed: int) -> None:
    visits = assign_splits(table(sizes), SplitConfig(seed=seed, scheme="site"))
    of_site = {site: {v.split for v in visits if v.site == site} for site in visits.sites}
    assert all(len(of) == 1 for of in of_site.values())
    used = {part for of in of_site.values() for part in of}
    assert "train" in used
    if len(sizes) >= 3:
        assert used == {"train", "validation", "test"}


def test_many_equal_sites_come_near_the_shares() -> None:
    visits = assign_splits(table({f"{i:03d}": 5 for i in range(40)}), SplitConfig(seed=7, scheme="site"))
    counts = Counter(v.split for v in visits)
    assert counts == {"train": 120, "validation": 30, "test": 50}


def test_no_validation_share_means_no_validation_site() -> None:
    visits = assign_splits(table({f"{i:03d}": 5 for i in range(8)}), SplitConfig(seed=0, scheme="site", validation=0.0))
    assert {v.split for v in visits} == {"train", "test"}


def test_existing_splits_are_kept_and_half_a_split_is_refused() -> None:
    order: list[Literal["train", "test"]] = ["test", "train", "train", "test"]
    given_parts = VisitTable(tuple(replace(v, split=s) for v, s in zip(table({"011": 4}), order, strict=True)))
    assert assign_splits(given_parts, SplitConfig(seed=5)) == given_parts
    half = VisitTable((replace(given_parts.visits[0], split=""), *given_parts.visits[1:]))
    with pytest.raises(DataError, match="3 of 4 visits have a split"):
        assign_splits(half, SplitConfig(seed=5))


def test_empty_table_stays_empty() -> None:
    assert len(assign_splits(VisitTable(()), SplitConfig(seed=0, scheme="site"))) == 0


def test_visits_without_an_outcome_train_and_move_nobody_else() -> None:
    everybody = table({"north": 29, "south": 5})
    mixed = VisitTable(tuple(replace(v, delta_cdrsb=None if i % 3 else v.delta_cdrsb) for i, v in enumerate(everybody)))
    for scheme in ("subject", "site"):
        config = SplitConfig(scheme=scheme, validation=0.2, test=0.3)
        known = assign_splits(mixed.where(lambda v: v.delta_cdrsb is not None), config)
        of_known = parts(known)
        assert parts(assign_splits(mixed, config)) == {v.subject_id: of_known.get(v.subject_id, "train") for v in mixed}
