"""A model that came is one that training could have led to, or is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from permmoe.federated.plausibility import ImplausibleModel, check_model

START = {"trunk": torch.arange(11.0), "encoder/t1": torch.arange(7.0)}
CENTRE = {"encoder/t1": torch.tensor([0, 1])}


def check(model: dict[str, Tensor], rounds: int = 1, *, are_means_set: bool = True) -> None:
    check_model(model, START, rounds=rounds, most=0.5, means=CENTRE, are_means_set=are_means_set)


def moved(by: float) -> dict[str, Tensor]:
    return {
        "trunk": START["trunk"] + by,
        "encoder/t1": START["encoder/t1"] + torch.tensor([0.0, 0.0, *[by] * 5]),
    }


def test_a_model_may_move_by_the_bound_in_each_round() -> None:
    check(moved(0.49))
    check(moved(-0.98), rounds=2)
    with pytest.raises(ImplausibleModel, match=r"moved by 0\.51 \(root mean square\) in 1 round"):
        check(moved(0.51))


def test_one_module_that_moved_too_far_is_enough() -> None:
    with pytest.raises(ImplausibleModel, match="module trunk moved"):
        check({**START, "trunk": torch.cat([START["trunk"][:-1], torch.tensor([999.0])])})


def test_round_one_begins_with_the_initial_model_up_to_rounding() -> None:
    check({name: weights.half().float() for name, weights in START.items()}, rounds=0)
    with pytest.raises(ImplausibleModel, match="initial model"):
        check(moved(0.1), rounds=0)


def test_means_move_in_the_centring_round_alone() -> None:
    other = {"encoder/t1": START["encoder/t1"] + torch.tensor([90.0, 0, 0, 0, 0, 0, 0])}
    check(other, are_means_set=False)
    with pytest.raises(ImplausibleModel, match="means in module encoder/t1"):
        check(other)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_refused_in_modules_that_are_new_too(value: float) -> None:
    for name in ("trunk", "head"):
        with pytest.raises(ImplausibleModel, match=f"module {name} holds a value that is not a number"):
            check({name: torch.tensor([value] + [0.0] * 10)})


def test_a_module_that_was_not_held_before_is_only_checked_to_be_finite() -> None:
    check({"head": torch.full((5,), 99.0)})
