"""Routers: who sees which weights, what noise does, and what the load estimate means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from permmoe.layers.routers import NOISE_FLOOR, Routers, top_k_gates
from tests.support.model_batches import small_config

OBSERVED = torch.tensor([[True, False, True], [True, True, True]])


def tokens(batch: int = 2, modalities: int = 3) -> Tensor:
    return torch.randn(batch, modalities, 5, 7)


def test_each_modalitys_tokens_meet_its_own_router() -> None:
    torch.manual_seed(0)
    routers, x = Routers(small_config()).eval(), tokens()
    routing = routers(x, OBSERVED)
    for m in range(3):
        for t in range(5):
            torch.testing.assert_close(routing.logits[:, m, t], x[:, m, t] @ routers.weight[m])


def test_a_shared_router_is_per_modality_routing_with_equal_weights() -> None:
    torch.manual_seed(1)
    own, shared = Routers(small_config()).eval(), Routers(small_config(routers="shared")).eval()
    assert shared.weight.shape == (1, 7, 11)
    own.load_state_dict({name: value.expand(3, -1, -1) for name, value in shared.state_dict().items()})
    x = tokens()
    a, b = own(x, OBSERVED), shared(x, OBSERVED)
    torch.testing.assert_close(a.logits, b.logits)
    torch.testing.assert_close(a.gates, b.gates)
    torch.testing.assert_close(a.load, b.load)
    assert (a.n_routers, b.n_routers) == (3, 1)


@pytest.mark.parametrize("is_training", [True, False])
def test_every_router_gets_a_gradient_of_its_own(is_training: bool) -> None:
    """In the public Flex-MoE code gates 1 to 3 of `num_routers=4` never receive one."""
    torch.manual_seed(2)
    routers = Routers(small_config()).train(is_training)
    (routers(tokens(), OBSERVED).gates * torch.randn(11)).sum().backward()
    assert routers.weight.grad is not None
    assert (routers.weight.grad.flatten(1).abs().sum(1) > 0).all()
    assert (routers.noise_weight.grad is not None) == is_training


def test_a_routers_gradient_comes_from_its_own_modality_only() -> None:
    torch.manual_seed(3)
    routers = Routers(small_config())
    (routers(tokens(), OBSERVED).gates[:, 1] * torch.randn(11)).sum().backward()
    assert routers.weight.grad is not None
    assert (routers.weight.grad.flatten(1).abs().sum(1) > 0).tolist() == [False, True, False]


@pytest.mark.parametrize(("n_experts", "top_k"), [(11, 1), (11, 3), (5, 5), (1, 1)])
@pytest.mark.parametrize("is_training", [True, False])
def test_gates_are_a_distribution_over_the_k_largest_logits(n_experts: int, top_k: int, is_training: bool) -> None:
    """The public Flex-MoE code crashes where k equals the number of experts."""
    torch.manual_seed(4)
    routers = Routers(small_config(experts=n_experts, top_k=top_k)).train(is_training)
    routing = routers(tokens(), OBSERVED)
    assert ((routing.gates > 0).sum(-1) == top_k).all()
    torch.testing.assert_close(routing.gates.sum(-1), torch.ones(2, 3, 5))
    assert routing.load.shape == routing.gates.shape
    assert routing.load.isfinite().all()
    if not is_training:
        for logits, gates in zip(routing.logits.flatten(0, 2), routing.gates.flatten(0, 2), strict=True):
            best = sorted(range(n_experts), key=lambda e: -logits[e].item())[:top_k]
            torch.testing.assert_close(gates[best], logits[best].softmax(0))


def test_without_noise_the_load_is_one_for_the_experts_of_a_token() -> None:
    torch.manual_seed(5)
    for routers in (Routers(small_config()).eval(), Routers(small_config(router_noise=False)).train()):
        routing = routers(tokens(), OBSERVED)
        torch.testing.assert_close(routing.load, (routing.gates > 0).float())
        torch.testing.assert_close(routing.noisy, routing.logits)


def test_with_noise_the_load_has_a_gradient_and_logits_stay_clean() -> None:
    torch.manual_seed(6)
    routers, x = Routers(small_config()).train(), tokens()
    routing = routers(x, OBSERVED)
    torch.testing.assert_close(routing.logits, routers.eval()(x, OBSERVED).logits)
    assert not torch.equal(routing.noisy, routing.logits)
    routing.load[..., 0].sum().backward()
    assert routers.weight.grad is not None and routers.weight.grad.abs().sum() > 0
    assert routers.noise_weight.grad is not None and routers.noise_weight.grad.abs().sum() > 0


def test_the_smooth_load_is_the_chance_to_be_chosen_with_fresh_noise_of_ones_own() -> None:
    """One token, two experts, k = 1: expert 0 is chosen when its noisy logit exceeds the other's."""
    routers = Routers(small_config(1, experts=2, top_k=1, tokens=1)).train()
    torch.nn.init.zeros_(routers.weight)
    torch.nn.init.constant_(routers.noise_weight, -1e4)
    x = torch.ones(1, 1, 1, 7)
    with torch.no_grad():
        routers.weight[0, :, 0] = NOISE_FLOOR / 7
    loads, chosen = [], []
    torch.manual_seed(7)
    for _ in range(2000):
        routing = routers(x, OBSERVED[:1, :1])
        loads.append(routing.load[0, 0, 0])
        chosen.append(routing.gates[0, 0, 0])
    expected = torch.special.ndtr(torch.tensor([0.5**0.5, -(0.5**0.5)]))
    torch.testing.assert_close(torch.stack(loads).mean(0), expected, atol=0.03, rtol=0)
    torch.testing.assert_close(torch.stack(chosen).mean(0), expected, atol=0.03, rtol=0)


def test_routing_stays_in_single_precision_under_autocast() -> None:
    torch.manual_seed(8)
    routers, x = Routers(small_config()).eval(), tokens()
    exact = routers(x, OBSERVED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = routers(x, OBSERVED)
    assert torch.equal(half.logits, exact.logits)
    assert torch.equal(half.gates, exact.gates)


def test_the_largest_logits_come_sorted_with_one_more_than_k_where_there_is_one() -> None:
    logits = torch.tensor([[[3.0, 1.0, 5.0, 2.0]]])
    assert top_k_gates(logits, 2)[1].tolist() == [[[5.0, 3.0, 2.0]]]
    assert top_k_gates(logits, 4)[1].tolist() == [[[5.0, 3.0, 2.0, 1.0]]]
