"""FuseMoE's gate: an expert has a place among the tokens, and the nearest experts get a token."""

from __future__ import annotations

import pytest
import torch

from permmoe.config import ModelConfig, RoutingLosses, TrainConfig
from permmoe.federated.modules import ModuleLayout
from permmoe.layers.routers import Routers, laplace_logits
from permmoe.model import PerMMoE
from permmoe.training.dense_pass import DensePerMMoE, dense_inputs
from permmoe.training.epochs import train_epochs
from permmoe.training.seeds import make_model
from tests.support.model_batches import random_batch, random_pattern, small_config
from tests.support.small_visits import small_visits

TRAIN = TrainConfig(batch_size=8, specialisation=False, routing_losses=RoutingLosses(balance="entropy"))


def fusemoe(**changes: object) -> ModelConfig:
    return small_config(n_volumes=2, n_tables=1, gate="laplace", bank="unconditioned", **changes)


def test_logits_are_minus_the_distance_of_each_token_from_each_experts_place() -> None:
    torch.manual_seed(0)
    routers = Routers(fusemoe()).eval()
    tokens, observed = torch.randn(2, 3, 5, 7), torch.ones(2, 3, dtype=torch.bool)
    routing = routers(tokens, observed)
    for visit, m, t, e in torch.cartesian_prod(*map(torch.arange, (2, 3, 5, 11))).tolist():
        distance = sum((tokens[visit, m, t, i] - routers.weight[m, i, e]) ** 2 for i in range(7)) ** 0.5
        torch.testing.assert_close(routing.logits[visit, m, t, e], -distance)


def test_a_token_goes_to_the_experts_that_are_nearest_and_most_to_the_nearest() -> None:
    torch.manual_seed(1)
    routers = Routers(fusemoe()).eval()
    with torch.no_grad():
        tokens = (routers.weight[:, :, 4] + 0.01)[None, :, None].expand(2, 3, 5, 7)
    routing = routers(tokens, torch.ones(2, 3, dtype=torch.bool))
    assert (routing.gates.argmax(-1) == 4).all()
    assert ((routing.gates > 0).sum(-1) == 2).all()


def test_logits_depend_on_where_tokens_are_from_places_and_not_on_where_both_are() -> None:
    torch.manual_seed(2)
    tokens, places, shift = torch.randn(3, 13, 7), torch.randn(3, 7, 11), torch.randn(7)
    moved = laplace_logits(tokens + shift, places + shift[:, None])
    torch.testing.assert_close(moved, laplace_logits(tokens, places), atol=1e-5, rtol=1e-4)


def test_a_token_at_an_experts_very_place_has_a_gradient_that_is_a_number() -> None:
    places = torch.randn(1, 7, 11, requires_grad=True)
    tokens = places.detach()[:, :, 4].unsqueeze(1).clone().requires_grad_()
    laplace_logits(tokens, places).softmax(-1)[0, 0, 4].backward()
    assert tokens.grad is not None and tokens.grad.isfinite().all()
    assert places.grad is not None and places.grad.isfinite().all()


def test_it_is_trained_by_its_own_losses_and_its_places_move() -> None:
    model = make_model(fusemoe(), 0)
    before = model.routers.weight.detach().clone()
    record = train_epochs(model, small_visits(model.config, 31), TRAIN, first_epoch=0, epochs=2, seed=0)
    assert torch.isfinite(torch.tensor(record.loss_sum))
    assert ((model.routers.weight - before).abs().sum(1) > 0).any(1).all()


def test_it_is_federated_by_the_modules_that_any_model_without_conditions_in_its_bank_has() -> None:
    linear = ModuleLayout.of(PerMMoE(fusemoe().model_copy(update={"gate": "linear"})))
    layout = ModuleLayout.of(PerMMoE(fusemoe()))
    assert {m: layout.size(m) for m in layout.modules} == {m: linear.size(m) for m in linear.modules}


@pytest.mark.parametrize("routers", ["per_modality", "shared"])
def test_the_dense_pass_routes_alike(routers: str) -> None:
    config = fusemoe(routers=routers)
    model = make_model(config, 3).eval()
    batch = random_batch(config, random_pattern(17, 3))
    dense = DensePerMMoE(model)(dense_inputs(batch, config), batch.observed, batch.baseline)
    torch.testing.assert_close(dense.prediction, model(batch).prediction)


def test_other_gates_and_losses_leave_digests_alone() -> None:
    assert "gate" not in ModelConfig().model_dump()
    assert "balance" not in RoutingLosses().model_dump()
    assert ModelConfig(gate="laplace").digest() != ModelConfig().digest()
