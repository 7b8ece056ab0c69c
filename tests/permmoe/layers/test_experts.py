"""The batched experts against a loop over experts, gradients included."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from permmoe.layers.experts import Experts, grouped_experts, sum_in_order
from permmoe.layers.routers import top_k_gates
from tests.support.model_batches import small_config

ALIGNED = {"width": 8, "expert_hidden": 24}
"""Grouped products take only rows of a multiple of eight numbers."""


def loop(experts: Experts, tokens: Tensor, gates: Tensor) -> Tensor:
    """The definition, expert by expert and token by token."""
    rows = []
    for token, weights in zip(tokens, gates, strict=True):
        row = torch.zeros_like(token)
        for e in weights.nonzero().flatten().tolist():
            hidden = F.gelu(token @ experts.w1[e] + experts.b1[e])
            row = row + weights[e] * (hidden @ experts.w2[e] + experts.b2[e])
        rows.append(row)
    return torch.stack(rows)


def random_experts(n_experts: int, top_k: int, **sizes: int) -> Experts:
    experts = Experts(small_config(experts=n_experts, top_k=top_k, **sizes))
    torch.nn.init.normal_(experts.b1)
    torch.nn.init.normal_(experts.b2)
    return experts


@pytest.mark.parametrize(("n_experts", "top_k"), [(11, 2), (11, 1), (5, 5), (3, 2), (1, 1)])
@pytest.mark.parametrize("n_tokens", [1, 3, 47])
@pytest.mark.parametrize("way", ["padded", "grouped"])
def test_batched_experts_equal_a_loop_gradients_included(n_experts: int, top_k: int, n_tokens: int, way: str) -> None:
    torch.manual_seed(0)
    experts = random_experts(n_experts, top_k, **ALIGNED)
    batched = experts if way == "padded" else partial(experts.grouped, precision=torch.float32)
    values = []
    tokens = torch.randn(n_tokens, 8, requires_grad=True)
    gates = top_k_gates(torch.randn(1, n_tokens, n_experts), top_k)[0][0].requires_grad_()
    direction = torch.randn(n_tokens, 8)
    for function in (batched, lambda x, g: loop(experts, x, g)):
        inputs = (tokens, gates, *experts.parameters())
        output = function(tokens, gates)
        gradients = torch.autograd.grad(output, inputs, direction)
        # A loop gives a gate of exactly zero no gradient, and neither may the batched form.
        values.append((output, *gradients))
    for fast, slow in zip(*values, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


def test_experts_of_several_models_in_one_product_equal_each_models_own() -> None:
    torch.manual_seed(6)
    models = [random_experts(5, 2, **ALIGNED) for _ in range(3)]
    tokens = torch.randn(3, 47, 8)
    gates = torch.stack([top_k_gates(torch.randn(1, 47, 5), 2)[0][0] for _ in models])
    stacked = [torch.stack([getattr(one, name) for one in models]) for name in ("w1", "b1", "w2", "b2")]
    found = grouped_experts(tokens, gates, *stacked, k=2, precision=torch.float32)
    for one, own, of_model, weights in zip(models, found, tokens, gates, strict=True):
        torch.testing.assert_close(own, loop(one, of_model, weights), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", ["padded", "grouped"])
def test_experts_without_tokens_get_zero_gradients(way: str) -> None:
    experts = random_experts(11, 2, **ALIGNED)
    gates = torch.zeros(13, 11)
    gates[:, 3] = 1.0
    batched = experts if way == "padded" else partial(experts.grouped, precision=torch.float32)
    batched(torch.randn(13, 8), gates).sum().backward()
    for parameter in experts.parameters():
        assert parameter.grad is not None
        used = parameter.grad.flatten(1).abs().sum(1) > 0
        assert used.nonzero().flatten().tolist() == [3]


def test_a_tokens_output_does_not_depend_on_the_other_tokens() -> None:
    torch.manual_seed(1)
    experts = random_experts(11, 3)
    tokens, gates = torch.randn(31, 7), top_k_gates(torch.randn(1, 31, 11), 3)[0][0]
    torch.testing.assert_close(experts(tokens[5:6], gates[5:6])[0], experts(tokens, gates)[5])


def test_the_output_is_linear_in_the_gates() -> None:
    torch.manual_seed(2)
    experts = random_experts(5, 5)
    tokens, a, b = torch.randn(13, 7), torch.rand(13, 5), torch.rand(13, 5)
    torch.testing.assert_close(experts(tokens, 2 * a + 3 * b), 2 * experts(tokens, a) + 3 * experts(tokens, b))


def test_running_twice_gives_the_same_bits() -> None:
    torch.manual_seed(3)
    experts = random_experts(11, 4)
    tokens = torch.randn(211, 7, requires_grad=True)
    gates = top_k_gates(torch.randn(1, 211, 11), 4)[0][0]
    first, second = (
        torch.autograd.grad(experts(tokens, gates).square().sum(), (tokens, *experts.parameters())) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_sum_with_an_order_is_that_of_the_rows_of_each_token() -> None:
    """What a GPU is given in place of index_add; a token may be sent to fewer experts than k, and to none."""
    torch.manual_seed(5)
    is_sent = top_k_gates(torch.randn(1, 211, 11), 4)[0][0] > 0.25
    is_sent[7] = False
    assert {0, 1, 2, 3} <= set(is_sent.sum(1).tolist())
    token = is_sent.nonzero()[:, 0]
    rows = torch.randn(len(token), 7, requires_grad=True)
    ours, expected = sum_in_order(rows, token, is_sent, 4), torch.zeros(211, 7).index_add(0, token, rows)
    torch.testing.assert_close(ours, expected)
    direction = torch.randn(211, 7)
    own, plain = (torch.autograd.grad(output, rows, direction)[0] for output in (ours, expected))
    assert torch.equal(own, plain)


def test_half_precision_agrees_with_single() -> None:
    torch.manual_seed(4)
    experts = random_experts(11, 2)
    tokens, gates = torch.randn(47, 7), top_k_gates(torch.randn(1, 47, 11), 2)[0][0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = experts(tokens, gates)
    assert half.dtype == torch.float32
    exact = experts(tokens, gates)
    assert 0 < (half - exact).norm() < 0.02 * exact.norm()
