"""Sums of errors say what they can be: every honest one is taken, and one that decides by its size alone is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from permmoe.evaluation.combinations import ErrorSums, error_sums
from permmoe.evaluation.consistent_sums import are_nested, is_consistent
from permmoe.federated.replies import EvaluationReply
from permmoe.federated.secure.blocks import evaluation_numbers, read_evaluation
from permmoe.federated.secure.exchanged import UnmaskedSum
from permmoe.modality import all_combinations, combination_name
from tests.support.tiny_federation import tiny_plan

NAMES = ("clinical", "fluid", "gene")
RANGES = [(-18.0, 18.0), (0.0, 30.0), (-5.0, -1.0), (0.1, 0.2), (1e-3, 1e3)]


def site(rng: np.random.Generator, low: float, high: float, n: int) -> dict[str, ErrorSums]:
    """What a site of n patients sends: outcomes and predictions at and within the range, as float32."""
    kind = rng.choice(["uniform", "ends", "same"])
    spread = {"uniform": rng.uniform(low, high, n), "ends": rng.choice([low, high], n), "same": np.full(n, high)}
    target = spread[kind].astype(np.float32).astype(float)
    has = {name: rng.random(n) < rng.choice([0.3, 0.9, 1.0]) for name in NAMES}
    sums = {}
    for combination in all_combinations(NAMES):
        visits = np.logical_and.reduce([has[name] for name in combination])
        prediction = np.where(visits, rng.choice([low, high, (low + high) / 2], n), np.nan).astype(np.float32)
        sums[combination_name(combination)] = error_sums(prediction.astype(float), target)
    return {name: one for name, one in sums.items() if one.n}


@pytest.mark.parametrize("bounds", RANGES)
def test_every_honest_sum_of_one_site_and_of_many_is_consistent(bounds: tuple[float, float]) -> None:
    rng = np.random.default_rng(7)
    for _ in range(150):
        sites = [site(rng, *bounds, int(rng.integers(1, 200))) for _ in range(3)]
        for sums in sites:
            assert all(is_consistent(one, bounds) and is_consistent(one, None) for one in sums.values())
            assert are_nested(sums, is_complete=True)
        names = {name for sums in sites for name in sums}
        fixed = {
            name: sum(evaluation_numbers(EvaluationReply("s", 1, "d", sums))[name] for sums in sites if name in sums)
            for name in names
        }
        unmasked = UnmaskedSum({name: np.asarray(values) for name, values in fixed.items()})
        together = read_evaluation(unmasked, tiny_plan(), "validation").sums
        assert all(is_consistent(one, bounds) for one in together.values()) and are_nested(together, is_complete=False)


HONEST = ErrorSums(7, 3.5, 2.0, 1.0, 4.0)
LIES = {
    "errors beyond the range": replace(HONEST, squared=7 * 36.0**2 * 1.01, absolute=7 * 36.0),
    "a mean error without its squares": replace(HONEST, squared=0.1, absolute=2.0),
    "squares without errors": replace(HONEST, absolute=0.0),
    "outcomes beyond the range": replace(HONEST, target=7 * 18.1, target_squared=7 * 18.1**2),
    "outcomes below the range": replace(HONEST, target=-7 * 18.1, target_squared=7 * 18.1**2),
    "outcomes' squares beyond the range": replace(HONEST, target_squared=7 * 18.1**2),
    "outcomes without their squares": replace(HONEST, target=7.0, target_squared=0.0),
    "the largest number": replace(HONEST, squared=1.7e308, absolute=1.7e308),
    "an infinite one": replace(HONEST, squared=float("inf")),
    "none": replace(HONEST, absolute=float("nan")),
    "a negative one": replace(HONEST, squared=-1.0),
}


@pytest.mark.parametrize("lie", LIES)
def test_attack_sums_that_no_errors_have(lie: str) -> None:
    assert is_consistent(HONEST, (-18.0, 18.0)) and not is_consistent(LIES[lie], (-18.0, 18.0))


def test_without_a_range_only_what_holds_of_any_numbers_is_asked_for() -> None:
    large = ErrorSums(2, 2e200, 2e100, 2e100, 2e200)
    assert is_consistent(large, None) and not is_consistent(replace(large, absolute=3e100), None)


def test_attack_a_combination_of_more_visits_than_a_part_of_it_has() -> None:
    whole, part = replace(HONEST, n=5), replace(HONEST, n=6)
    assert are_nested({"clinical+gene": whole, "clinical": part, "gene": part}, is_complete=True)
    assert not are_nested({"clinical+gene": part, "clinical": whole, "gene": part}, is_complete=True)
    assert not are_nested({"clinical+gene": whole, "clinical": part}, is_complete=True), "who has both has each"
    assert are_nested({"clinical+gene": whole, "clinical": part}, is_complete=False)
    more = replace(whole, target_squared=9.0)
    assert not are_nested({"clinical+gene": more, "clinical": part, "gene": part}, is_complete=True)
