"""Our max-pooling against PyTorch's, bit by bit: values, gradients, and how both lie in memory."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from permmoe.layers.pooling import MaxPooling, max_pooled

NAN, INFINITY = float("nan"), float("inf")
GRIDS = ((12, 12, 12), (13, 17, 11), (4, 5, 6))


def bits(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.int16 if values.dtype == torch.bfloat16 else torch.int32)


def volumes(grid: tuple[int, int, int], precision: torch.dtype, layout: torch.memory_format) -> Tensor:
    """Few different values, so that blocks have ties, and some that compare in a way of their own."""
    drawn = torch.randint(-2, 3, (3, 5, *grid)).to(precision)
    for special, share in ((NAN, 0.02), (-0.0, 0.2), (-INFINITY, 0.1), (INFINITY, 0.01)):
        drawn[torch.rand(drawn.shape) < share] = special
    return drawn.contiguous(memory_format=layout)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_values_and_gradients_are_pytorchs_to_the_bit_with_ties_and_nans(
    size: int, precision: torch.dtype, layout: torch.memory_format
) -> None:
    for seed, grid in enumerate(GRIDS):
        torch.manual_seed(seed)
        inputs = volumes(grid, precision, layout)
        ours, theirs = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
        pooled, expected = max_pooled(ours, size), F.max_pool3d(theirs, size)
        # As the next layer hands it back: in the layout of what it was given.
        gradient = torch.randn(pooled.shape).to(precision).contiguous(memory_format=layout)
        gradient[torch.rand(gradient.shape) < 0.2] = -0.0
        pooled.backward(gradient)
        expected.backward(gradient)
        assert ours.grad is not None and theirs.grad is not None
        assert torch.equal(bits(pooled), bits(expected)) and torch.equal(bits(ours.grad), bits(theirs.grad))
        assert pooled.stride() == expected.stride() and ours.grad.stride() == theirs.grad.stride()


def test_the_first_of_equal_voxels_has_the_gradient() -> None:
    inputs = torch.zeros(1, 1, 2, 2, 4, requires_grad=True)
    max_pooled(inputs, 2).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.nonzero().tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 0, 2]]


def test_every_voxel_of_a_block_is_compared_and_none_of_another() -> None:
    """The slow and obvious way, block by block."""
    torch.manual_seed(0)
    inputs = torch.randn(2, 3, 7, 5, 9, requires_grad=True)
    pooled = max_pooled(inputs, 2)
    for n, c, i, j, k in product(range(2), range(3), range(3), range(2), range(4)):
        block = inputs[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 2 * k : 2 * k + 2]
        assert pooled[n, c, i, j, k] == block.max()
        (gradient,) = torch.autograd.grad(pooled[n, c, i, j, k], inputs, retain_graph=True)
        assert gradient.sum() == 1 and inputs[gradient.bool()].item() == block.max()


def test_gradients_of_single_visits_are_pytorchs() -> None:
    torch.manual_seed(0)
    visits = torch.randn(3, 1, 2, 5, 6, 7)

    def gradients(ours: bool) -> Tensor:
        pool = (lambda v: max_pooled(v, 2)) if ours else (lambda v: F.max_pool3d(v, 2))
        found: Tensor = vmap(grad(lambda v: pool(v).square().sum()))(visits)
        return found

    assert torch.equal(gradients(ours=True), gradients(ours=False))


@pytest.mark.parametrize("is_on", [True, False])
def test_the_layer_takes_it_where_deterministic_algorithms_are_asked_for(
    is_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: is_on)
    pooled = MaxPooling(2)(torch.randn(1, 2, 4, 5, 6, requires_grad=True))
    names = {type(node).__name__ for node, _ in pooled.grad_fn.next_functions} | {type(pooled.grad_fn).__name__}
    assert any("_MaxPooled" in name for name in names) is is_on
