"""A model without a missing bank: what a visit lacks plays no part in attention, routing, experts and head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from permmoe.config import ModelConfig, TrainConfig
from permmoe.data.batch import Batch
from permmoe.federated.modules import ModuleLayout, module_support, reachable_modules
from permmoe.model import PerMMoE
from permmoe.training.dense_pass import DensePerMMoE, dense_inputs
from permmoe.training.epochs import train_epochs
from permmoe.training.losses import balance_loss, specialisation_loss
from permmoe.training.seeds import make_model
from tests.support.model_batches import random_batch, random_pattern, small_config
from tests.support.small_visits import small_visits

FUSIONS = ("pre_norm", "flex_moe")


def masked(**changes: object) -> ModelConfig:
    return small_config(n_volumes=2, n_tables=1, bank="none", **changes)


def trained(config: ModelConfig) -> PerMMoE:
    model = make_model(config, 0)
    train_epochs(model, small_visits(config, 31), TrainConfig(batch_size=8), first_epoch=0, epochs=2, seed=0)
    return model.eval()


def without_volume1(config: ModelConfig) -> Batch:
    observed = torch.ones(7, 3, dtype=torch.bool)
    observed[:, 1] = False
    return random_batch(config, observed)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_nothing_that_belongs_to_a_missing_modality_changes_a_prediction(fusion: str) -> None:
    config = masked(fusion=fusion)
    model, batch = trained(config), without_volume1(config)
    before = model(batch).prediction
    with torch.no_grad():
        model.routers.weight[1] += 5
        model.routers.noise_weight[1] += 5
        embedding = model.attention.get_parameter(
            "modality_embedding" if fusion == "pre_norm" else "position_embedding"
        )
        embedding[1] += 5
        for parameter in model.encoders["volume1"].parameters():
            parameter += 5
    assert torch.equal(model(batch).prediction, before)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_was_observed_is_fused_as_by_a_model_that_has_no_other_modality(fusion: str) -> None:
    """The head alone sees a place for it, with zeros."""
    config = masked(fusion=fusion)
    model, batch = trained(config), without_volume1(config)
    tokens = model.completed(model.encode(batch))
    kept = [0, 2]
    smaller = PerMMoE(config.model_copy(update={"modalities": tuple(config.modalities[i] for i in kept)})).eval()
    state = dict(model.attention.state_dict())
    for name in ("modality_embedding", "position_embedding"):
        if name in state and len(state[name]) == 3:
            state[name] = state[name][kept]
    smaller.attention.load_state_dict(state)
    whole = model.attention(tokens, model.missing_bank.present(batch.observed))[:, kept]
    torch.testing.assert_close(whole, smaller.attention(tokens[:, kept]))


def test_tokens_of_a_missing_modality_go_to_no_expert_and_load_none() -> None:
    config = masked()
    for model in (trained(config), trained(config).train()):
        batch = random_batch(config, random_pattern(17, 3))
        routing = model(batch).routing
        assert not routing.gates[~batch.observed].any() and not routing.load[~batch.observed].any()
        torch.testing.assert_close(routing.gates[batch.observed].sum(-1), torch.ones(int(batch.observed.sum()), 5))


def test_losses_of_the_routing_ignore_what_a_masked_token_would_have_been_sent_to() -> None:
    config = masked()
    model = trained(config).train()
    batch = without_volume1(config)
    torch.manual_seed(0)
    routing = model(batch).routing
    found = specialisation_loss(routing).item(), balance_loss(routing).item()
    with torch.no_grad():
        model.routers.weight[1] += torch.randn(7, 11)
    torch.manual_seed(0)
    routing = model(batch).routing
    assert (specialisation_loss(routing).item(), balance_loss(routing).item()) == found


def test_the_dense_pass_masks_alike() -> None:
    config = masked()
    model = trained(config)
    batch = random_batch(config, random_pattern(17, 3))
    dense = DensePerMMoE(model)(dense_inputs(batch, config), batch.observed, batch.baseline)
    torch.testing.assert_close(dense.prediction, model(batch).prediction)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_place_that_fills_up_a_batch_is_a_number(fusion: str) -> None:
    config = masked(fusion=fusion)
    model = trained(config)
    observed = torch.tensor([[True, False, True], [False, False, False]])
    inputs = tuple(x.expand(2, *x.shape[1:]) for x in dense_inputs(random_batch(config, observed[:1]), config))
    assert DensePerMMoE(model)(inputs, observed, torch.zeros(2)).prediction.isfinite().all()


def test_there_is_no_bank_to_train_to_send_or_to_average() -> None:
    config = masked()
    layout = ModuleLayout.of(PerMMoE(config))
    assert not [module for module in layout.modules if module.startswith("bank/")]
    record = train_epochs(
        make_model(config, 0), small_visits(config, 17), TrainConfig(), first_epoch=0, epochs=1, seed=0
    )
    assert set(module_support(config, record.exposure)) == set(layout.modules)
    state = dict(PerMMoE(config).state_dict())
    again = layout.unflatten(layout.flatten_all(state))
    assert all(torch.equal(again[name], value) for name, value in state.items())


def test_a_site_is_sent_no_router_of_a_modality_that_it_lacks() -> None:
    config = masked()
    every = set(ModuleLayout.of(PerMMoE(config)).modules)
    assert every - reachable_modules(config, ("volume0", "table0")) == {"encoder/volume1", "router/volume1"}


def test_all_that_is_reachable_gets_a_gradient() -> None:
    config = masked()
    model = make_model(config, 0).train()
    batch = without_volume1(config)
    output = model(batch)
    (output.prediction.square().sum() + specialisation_loss(output.routing)).backward()

    def moved(parameter: Tensor) -> bool:
        return parameter.grad is not None and bool(parameter.grad.any())

    assert not any(moved(parameter) for parameter in model.encoders["volume1"].parameters())
    assert all(moved(p) for p in model.encoders["volume0"].parameters() if p.requires_grad)
    gradient = model.routers.weight.grad
    assert gradient is not None and gradient[0].any() and not gradient[1].any()
