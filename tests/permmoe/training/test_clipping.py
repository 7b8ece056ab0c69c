"""Gradients that are clipped part by part: against a loop over patients and parts, and what one patient can do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from permmoe.training.clipping import GradientBound, clipped_by_part

BOUNDS = (
    GradientBound(0.7, (("map", None), ("shift", None))),
    GradientBound(1.3, (("stack", 0),)),
    GradientBound(0.4, (("stack", 1), ("biases", 0))),
    GradientBound(0.2, (("stack", 2), ("biases", 1))),
)
"""Over two whole parameters, a stack of three and one of two slices."""


def gradients_of(n: int, scale: float = 1.0) -> dict[str, Tensor]:
    shapes = {"map": (3, 5), "shift": (7,), "stack": (3, 2, 5), "biases": (2, 11)}
    return {name: scale * torch.randn(n, *shape) for name, shape in shapes.items()}


def part_of(gradients: dict[str, Tensor], bound: GradientBound, patient: int) -> Tensor:
    """One patient's numbers of one part, laid end to end."""
    pieces = [gradients[name][patient] if i is None else gradients[name][patient, i] for name, i in bound.pieces]
    return torch.cat([piece.flatten() for piece in pieces])


def test_each_patients_parts_are_as_a_loop_over_patients_and_parts_has_them() -> None:
    gradients = gradients_of(13, 0.3)
    found = clipped_by_part(gradients, BOUNDS)
    shortened = 0
    for patient in range(13):
        for bound in BOUNDS:
            part = part_of(gradients, bound, patient)
            expected = part if part.norm() <= bound.norm else part * bound.norm / part.norm()
            shortened += int(part.norm() > bound.norm)
            torch.testing.assert_close(part_of(found, bound, patient), expected)
    assert 13 < shortened < 3 * 13 + 13, "some are short and some long"


def test_what_came_is_left_as_it_was() -> None:
    gradients = gradients_of(3, 10.0)
    before = {name: gradient.clone() for name, gradient in gradients.items()}
    clipped_by_part(gradients, BOUNDS)
    assert all(torch.equal(gradients[name], before[name]) for name in before)


def test_a_gradient_of_zeros_stays_and_nobody_is_no_trouble() -> None:
    zeros = clipped_by_part(gradients_of(3, 0.0), BOUNDS)
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in zeros.values())
    assert all(len(gradient) == 0 for gradient in clipped_by_part(gradients_of(0), BOUNDS).values())


@pytest.mark.parametrize("part", range(len(BOUNDS)))
def test_attack_a_patient_with_a_huge_gradient_in_one_part_moves_its_sum_by_the_bound_and_no_other(part: int) -> None:
    gradients = gradients_of(5, 0.01)
    huge = {name: gradient.clone() for name, gradient in gradients.items()}
    for name, index in BOUNDS[part].pieces:
        (huge[name] if index is None else huge[name][:, index])[2] = 1e6
    usual, moved = clipped_by_part(gradients, BOUNDS), clipped_by_part(huge, BOUNDS)
    without = {name: gradient[[0, 1, 3, 4]].sum(0, keepdim=True) for name, gradient in moved.items()}
    total = {name: gradient.sum(0, keepdim=True) for name, gradient in moved.items()}
    own = part_of(total, BOUNDS[part], 0) - part_of(without, BOUNDS[part], 0)
    assert float(own.norm()) == pytest.approx(BOUNDS[part].norm, rel=1e-4)
    for other in (bound for bound in BOUNDS if bound is not BOUNDS[part]):
        assert torch.equal(part_of(moved, other, 2), part_of(usual, other, 2))


def test_attack_a_patient_with_a_huge_gradient_everywhere_moves_the_whole_by_the_root_of_the_sum_of_squares() -> None:
    found = clipped_by_part(gradients_of(2, 1e6), BOUNDS)
    whole = torch.cat([gradient[1].flatten() for gradient in found.values()])
    assert float(whole.norm()) == pytest.approx(sum(bound.norm**2 for bound in BOUNDS) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("left_out", range(len(BOUNDS)))
def test_a_gradient_without_a_bound_is_refused(left_out: int) -> None:
    bounds = [bound for bound in BOUNDS if bound is not BOUNDS[left_out]]
    with pytest.raises(ValueError, match="has no bound"):
        clipped_by_part(gradients_of(2), bounds)
