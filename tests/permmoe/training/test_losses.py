"""Balance and specialisation against their definitions, and the weighted total."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from permmoe.config import TrainConfig
from permmoe.data.batch import Batch, observed_masks
from permmoe.layers.routers import Routing
from permmoe.modality import designated_expert
from permmoe.model import Output, PerMMoE
from permmoe.training.losses import balance_loss, specialisation_loss, total_loss, unimodal_loss
from permmoe.training.seeds import make_model
from tests.support.model_batches import random_batch, random_pattern, small_config


def routing_of(logits: Tensor, gates: Tensor, observed: Tensor, n_routers: int) -> Routing:
    return Routing(logits, logits, gates, observed, (gates > 0).float(), n_routers)


def test_balance_is_zero_where_all_experts_get_the_same() -> None:
    gates = torch.full((7, 3, 5, 11), 1 / 11)
    assert balance_loss(routing_of(gates, gates, torch.ones(7, 3, dtype=torch.bool), 3)).item() == pytest.approx(0)


@pytest.mark.parametrize("n_routers", [1, 3])
def test_one_expert_taking_all_is_the_worst_balance(n_routers: int) -> None:
    gates = torch.zeros(7, 3, 5, 11)
    gates[..., 4] = 1
    loss = balance_loss(routing_of(gates, gates, torch.ones(7, 3, dtype=torch.bool), n_routers))
    assert loss.item() == pytest.approx(2 * (11 - 1))


def test_each_router_is_balanced_by_itself_but_a_shared_one_over_all_modalities() -> None:
    gates = torch.zeros(7, 3, 5, 3)
    for m in range(3):
        gates[:, m, :, m] = 1
    everything = torch.ones(7, 3, dtype=torch.bool)
    assert balance_loss(routing_of(gates, gates, everything, 1)).item() == pytest.approx(0)
    assert balance_loss(routing_of(gates, gates, everything, 3)).item() == pytest.approx(4)


def test_one_expert_is_always_balanced() -> None:
    gates = torch.ones(2, 3, 5, 1)
    loss = balance_loss(routing_of(gates, gates, torch.ones(2, 3, dtype=torch.bool), 3))
    assert loss.item() == 0


def test_specialisation_is_the_cross_entropy_to_the_designated_expert_of_incomplete_visits() -> None:
    torch.manual_seed(0)
    logits, observed = torch.randn(13, 3, 5, 11), random_pattern(13, 3)
    observed[4] = True
    terms = []
    for visit, mask in enumerate(observed_masks(observed).tolist()):
        if mask != 0b111:
            expert = designated_expert(mask, 3, 11)
            terms += [-logits[visit, m, t].log_softmax(0)[expert] for m in range(3) for t in range(5)]
    loss = specialisation_loss(routing_of(logits, logits.softmax(-1), observed, 3))
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_visits_with_all_modalities_are_not_specialised() -> None:
    logits = torch.randn(7, 3, 5, 11, requires_grad=True)
    loss = specialisation_loss(routing_of(logits, logits.softmax(-1), torch.ones(7, 3, dtype=torch.bool), 3))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None and torch.equal(logits.grad, torch.zeros_like(logits))


def test_specialisation_moves_only_the_visits_that_lack_something() -> None:
    logits = torch.randn(2, 3, 5, 11, requires_grad=True)
    observed = torch.tensor([[True, True, True], [False, True, True]])
    specialisation_loss(routing_of(logits, logits.softmax(-1), observed, 3)).backward()
    assert logits.grad is not None
    assert logits.grad[0].abs().sum() == 0
    favoured = designated_expert(0b110, 3, 11)
    assert (logits.grad[1, ..., favoured] < 0).all()


@pytest.mark.parametrize(("n_modalities", "n_experts"), [(1, 3), (5, 16), (8, 7), (2, 1)])
def test_both_losses_exist_for_any_number_of_modalities_and_experts(n_modalities: int, n_experts: int) -> None:
    """The public Flex-MoE code crashes for five modalities with sixteen experts."""
    torch.manual_seed(1)
    logits, observed = torch.randn(7, n_modalities, 2, n_experts), random_pattern(7, n_modalities)
    routing = routing_of(logits, logits.softmax(-1), observed, n_modalities)
    assert specialisation_loss(routing).isfinite() and balance_loss(routing).isfinite()


def outcome() -> tuple[Output, Batch]:
    torch.manual_seed(2)
    config = small_config()
    batch = random_batch(config, random_pattern(7, 3))
    return PerMMoE(config).eval()(batch), batch


def test_the_total_is_squared_error_plus_the_weighted_losses() -> None:
    output, batch = outcome()
    error = (output.prediction - batch.target).square().mean()
    balance, specialisation = balance_loss(output.routing), specialisation_loss(output.routing)
    assert balance > 0 and specialisation > 0

    def total(**settings: object) -> Tensor:
        return total_loss(output, batch, TrainConfig.model_validate({"auxiliary_weight": 0.25, **settings}))

    torch.testing.assert_close(total(), error + 0.25 * (balance + specialisation))
    torch.testing.assert_close(total(balance=False), error + 0.25 * specialisation)
    torch.testing.assert_close(total(specialisation=False), error + 0.25 * balance)
    torch.testing.assert_close(total(balance=False, specialisation=False), error)


def test_losses_do_not_depend_on_what_was_computed_before() -> None:
    output, batch = outcome()
    first = total_loss(output, batch, TrainConfig())
    assert torch.equal(total_loss(output, batch, TrainConfig()), first)


def test_unimodal_loss_is_over_observed_modalities_only() -> None:
    config = small_config(n_volumes=3, unimodal_heads=True)
    batch = random_batch(config, torch.tensor([[True, False, True], [False, True, False]]))
    by_itself = torch.tensor([[1.0, 99.0, 2.0], [99.0, 5.0, 99.0]])
    errors = [1.0 - batch.target[0], 2.0 - batch.target[0], 5.0 - batch.target[1]]
    assert unimodal_loss(by_itself, batch).item() == pytest.approx(float(sum(e**2 for e in errors)) / 3, rel=1e-5)


def test_unimodal_heads_train_the_encoders_of_observed_modalities_and_nothing_behind_them() -> None:
    config = small_config(n_volumes=3, unimodal_heads=True)
    model = PerMMoE(config).train()
    batch = random_batch(config, torch.tensor([[True, False, True], [True, False, False]]))
    output = model(batch)
    assert output.unimodal is not None
    unimodal_loss(output.unimodal, batch).backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {name.split(".")[1] for name in trained} == {"volume0", "volume2"}
    assert {name.split(".")[0] for name in trained} == {"encoders", "unimodal_heads"}
    assert model.eval()(batch).unimodal is None


def test_unimodal_heads_leave_the_initial_weights_of_everything_else_alone() -> None:
    plain, with_heads = (make_model(small_config(unimodal_heads=u), 7).state_dict() for u in (False, True))
    assert all(torch.equal(with_heads[name], value) for name, value in plain.items())
