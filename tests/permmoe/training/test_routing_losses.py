"""The routing losses as Flex-MoE's public code takes them, each choice against loops over visits and experts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import log
from statistics import pvariance, variance

import pytest
import torch

from permmoe.config import RoutingLosses, TrainConfig
from permmoe.data.batch import Batch, observed_masks
from permmoe.layers.routers import Routers, Routing
from permmoe.modality import designated_expert
from permmoe.model import Output
from permmoe.training.losses import balance_loss, specialisation_loss, total_loss
from tests.support.model_batches import random_pattern, small_config

PUBLIC = RoutingLosses(
    over_modalities="sum",
    balance_pool="modality",
    balance_visits="apart",
    variance="sample",
    specialised_logits="noisy",
)
EVERY_WAY = [
    RoutingLosses(over_modalities=over, balance_pool=pool, balance_visits=visits, variance=kind, specialised_logits=of)
    for over, pool, visits, kind, of in product(
        ("mean", "sum"), ("router", "modality"), ("together", "apart"), ("population", "sample"), ("clean", "noisy")
    )
]  # fmt: skip


def some_routing(routers: str, observed: torch.Tensor) -> Routing:
    """Seven visits of three modalities, five tokens each, through noisy routers that are being trained."""
    torch.manual_seed(0)
    layer = Routers(small_config(routers=routers, experts=11)).train()
    torch.nn.init.normal_(layer.noise_weight)
    routing: Routing = layer(torch.randn(len(observed), 3, 5, 7), observed)
    return routing


def mixed_visits() -> torch.Tensor:
    torch.manual_seed(1)
    observed = random_pattern(7, 3)
    observed[::3] = True
    observed[1, 2] = False
    return observed


def slow_balance(routing: Routing, how: RoutingLosses) -> float:
    """By its definition: for each pool of tokens, and each kind of visits, CV² of importance and of load."""
    n_visits, n_modalities, n_tokens, n_experts = routing.gates.shape
    is_full = [all(row) for row in routing.observed.tolist()]
    everyone = range(n_visits)
    groups: list[tuple[Sequence[int], range]] = [(everyone, range(n_experts))]
    if how.balance_visits == "apart":
        groups = [
            ([v for v in everyone if is_full[v]], range(n_experts)),
            ([v for v in everyone if not is_full[v]], range(1, n_experts)),
        ]
    pools = [[m] for m in range(n_modalities)]
    if how.balance_pool == "router" and routing.n_routers == 1:
        pools = [list(range(n_modalities))]
    losses = []
    for pool in pools:
        loss = 0.0
        for visits, experts in groups:
            for values in (routing.gates.detach(), routing.load.detach()):
                given = [
                    sum(float(values[v, m, t, e]) for v in visits for m in pool for t in range(n_tokens))
                    for e in experts
                ]
                if sum(given):
                    spread = variance(given) if how.variance == "sample" else pvariance(given)
                    loss += spread / (sum(given) / len(given)) ** 2
        losses.append(loss)
    return sum(losses) / len(losses) if how.over_modalities == "mean" else sum(losses)


def slow_specialisation(routing: Routing, how: RoutingLosses) -> float:
    """By its definition: a modality's tokens of incomplete visits, one cross-entropy after the other."""
    n_visits, n_modalities, n_tokens, n_experts = routing.gates.shape
    logits = (routing.noisy if how.specialised_logits == "noisy" else routing.logits).detach()
    masks = observed_masks(routing.observed).tolist()
    of_modality = []
    for m in range(n_modalities):
        terms = []
        for v in range(n_visits):
            if not all(routing.observed[v].tolist()):
                expert = designated_expert(masks[v], n_modalities, n_experts)
                terms += [-float(logits[v, m, t].log_softmax(0)[expert]) for t in range(n_tokens)]
        of_modality.append(sum(terms) / len(terms) if terms else 0.0)
    return sum(of_modality) / (1 if how.over_modalities == "sum" else n_modalities)


@pytest.mark.parametrize("routers", ["per_modality", "shared"])
@pytest.mark.parametrize("how", EVERY_WAY, ids=lambda how: "-".join(how.model_dump().values()))
def test_every_way_to_take_the_losses_is_what_its_description_says(how: RoutingLosses, routers: str) -> None:
    routing = some_routing(routers, mixed_visits())
    assert balance_loss(routing, how).item() == pytest.approx(slow_balance(routing, how), rel=1e-4)
    assert specialisation_loss(routing, how).item() == pytest.approx(slow_specialisation(routing, how), rel=1e-4)


@pytest.mark.parametrize("routers", ["per_modality", "shared"])
@pytest.mark.parametrize("is_full", [True, False])
def test_batches_of_one_kind_of_visits_are_balanced_as_that_kind(routers: str, is_full: bool) -> None:
    observed = torch.ones(7, 3, dtype=torch.bool)
    observed[:, 1] = is_full
    routing = some_routing(routers, observed)
    assert balance_loss(routing, PUBLIC).item() == pytest.approx(slow_balance(routing, PUBLIC), rel=1e-4)
    assert (specialisation_loss(routing, PUBLIC).item() == 0) == is_full


def test_the_public_losses_do_not_tell_a_shared_router_from_equal_ones() -> None:
    """So Flex-MoE and PerM-MoE, each with these losses, differ in the router alone; with ours they do not."""
    torch.manual_seed(2)
    shared, own = (Routers(small_config(routers=kind)).eval() for kind in ("shared", "per_modality"))
    own.load_state_dict({name: value.expand(3, -1, -1) for name, value in shared.state_dict().items()})
    observed, tokens = mixed_visits(), torch.randn(7, 3, 5, 7)
    routings = [routers(tokens, observed) for routers in (shared, own)]
    public, ours = ([balance_loss(routing, how).item() for routing in routings] for how in (PUBLIC, RoutingLosses()))
    assert public[0] == pytest.approx(public[1], rel=1e-5)
    assert ours[0] != pytest.approx(ours[1], rel=1e-2)


def test_cross_entropy_on_noisy_logits_trains_the_noise() -> None:
    observed = mixed_visits()
    for how, is_trained in ((PUBLIC, True), (RoutingLosses(), False)):
        torch.manual_seed(3)
        routers = Routers(small_config()).train()
        specialisation_loss(routers(torch.randn(7, 3, 5, 7), observed), how).backward()
        assert (routers.noise_weight.grad is not None) == is_trained


@pytest.mark.parametrize("n_experts", [1, 2])
def test_the_public_balance_is_finite_where_hardly_an_expert_is_left(n_experts: int) -> None:
    gates = torch.zeros(4, 3, 5, n_experts)
    gates[..., 0] = 1
    gates.requires_grad_()
    observed = torch.tensor([[True, True, True], [True, True, True], [True, False, True], [False, False, True]])
    loss = balance_loss(Routing(gates, gates, gates, observed, gates, 3), PUBLIC)
    loss.backward()
    assert loss.isfinite() and gates.grad is not None and gates.grad.isfinite().all()


def test_the_training_takes_the_losses_that_its_configuration_names() -> None:
    routing, prediction = some_routing("shared", mixed_visits()), torch.zeros(7)
    batch = Batch({}, routing.observed, torch.zeros(7), torch.zeros(7))
    train = TrainConfig(auxiliary_weight=0.5, routing_losses=PUBLIC)
    expected = 0.5 * (slow_balance(routing, PUBLIC) + slow_specialisation(routing, PUBLIC))
    assert total_loss(Output(prediction, routing), batch, train).item() == pytest.approx(expected, rel=1e-4)


def test_losses_leave_digests_alone_until_others_are_named() -> None:
    assert TrainConfig(routing_losses=RoutingLosses()).digest() == TrainConfig().digest()
    assert "routing_losses" not in TrainConfig().model_dump()
    assert TrainConfig(routing_losses=PUBLIC).digest() != TrainConfig().digest()


def slow_entropy(routing: Routing) -> float:
    """By its definition: each modality's share of experts over its routed tokens, and the mean of these shares."""
    n_visits, n_modalities, n_tokens, n_experts = routing.gates.shape
    shares = []
    for m in range(n_modalities):
        tokens = [routing.gates[v, m, t].tolist() for v in range(n_visits) for t in range(n_tokens)]
        routed = [gates for gates in tokens if sum(gates)]
        if routed:
            shares.append([sum(gates[e] for gates in routed) / len(routed) for e in range(n_experts)])

    def entropy(share: Sequence[float]) -> float:
        return -sum(p * log(p) for p in share if p)

    mean = [sum(share[e] for share in shares) / len(shares) for e in range(n_experts)]
    return sum(map(entropy, shares)) / len(shares) - entropy(mean)


ENTROPY = RoutingLosses(balance="entropy")


@pytest.mark.parametrize("routers", ["per_modality", "shared"])
def test_the_entropy_loss_is_what_its_description_says(routers: str) -> None:
    routing = some_routing(routers, mixed_visits())
    assert balance_loss(routing, ENTROPY).item() == pytest.approx(slow_entropy(routing), rel=1e-4)


def test_the_entropy_loss_counts_no_modality_that_was_not_routed() -> None:
    observed = mixed_visits()
    observed[:, 1] = False
    torch.manual_seed(0)
    routing = Routers(small_config()).train()(torch.randn(7, 3, 5, 7), observed, observed)
    assert balance_loss(routing, ENTROPY).item() == pytest.approx(slow_entropy(routing), rel=1e-4)


def test_the_entropy_loss_is_least_where_modalities_share_no_expert_and_zero_where_they_use_them_alike() -> None:
    observed = torch.ones(7, 3, dtype=torch.bool)
    apart = torch.zeros(7, 3, 5, 11)
    for m in range(3):
        apart[:, m, :, m] = 1.0
    alike = torch.full((7, 3, 5, 11), 1 / 11)
    losses = [balance_loss(Routing(g, g, g, observed, g, 3), ENTROPY).item() for g in (apart, alike)]
    assert losses == pytest.approx([-log(3), 0.0], abs=1e-5)


def test_the_entropy_loss_has_a_gradient_that_is_a_number_where_an_expert_gets_nothing() -> None:
    gates = torch.zeros(4, 3, 5, 11)
    gates[..., 0] = 1
    gates.requires_grad_()
    balance_loss(Routing(gates, gates, gates, torch.ones(4, 3, dtype=torch.bool), gates, 3), ENTROPY).backward()
    assert gates.grad is not None and gates.grad.isfinite().all()
