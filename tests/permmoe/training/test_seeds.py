"""Seeds follow from what they are for, and a model follows from its seed."""

from __future__ import annotations

from permmoe.training.seeds import derive_seed


def test_derived_seeds_depend_on_every_part_and_its_place() -> None:
    seeds = {
        derive_seed(*parts) for parts in [(1, "a", 2), (1, "a", 3), (1, "b", 2), (11, "a"), (1, "1a"), ("a", 1, 2)]
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "epoch", 2) == derive_seed(1, "epoch", 2)
