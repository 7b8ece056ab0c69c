"""The optimisers of a training: plain steps are what they say, and go on from a point."""

from __future__ import annotations

import pytest
import torch

from permmoe.config import TrainConfig
from permmoe.training.optimiser import is_decayed, load_optimiser, make_optimiser, optimiser_tensors
from permmoe.training.seeds import make_model
from permmoe.training.stacked_epochs import why_not_stacked
from tests.support.small_training import CONFIG

SGD = TrainConfig(optimiser="sgd", learning_rate=0.25, weight_decay=0.5)


def test_a_plain_step_is_in_proportion_to_the_gradient_and_draws_maps_alone_to_zero() -> None:
    model = make_model(CONFIG, 1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = make_optimiser(model, SGD)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 3.0)
        optimiser.step()
    for name, parameter in model.named_parameters():
        expected = before[name]
        for _ in range(2):
            expected = expected - 0.25 * (3.0 + (0.5 * expected if is_decayed(parameter) else 0.0))
        torch.testing.assert_close(parameter.detach(), expected)


def test_plain_steps_have_no_state_to_go_on_with() -> None:
    model = make_model(CONFIG, 1)
    optimiser = make_optimiser(model, SGD)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    assert optimiser_tensors(optimiser, model) == {}
    load_optimiser(make_optimiser(model, SGD), model, {})


@pytest.mark.parametrize(("optimiser", "reason"), [("adamw", ""), ("sgd", "the optimiser is sgd")])
def test_models_whose_steps_are_plain_are_trained_one_by_one(optimiser: str, reason: str) -> None:
    config = TrainConfig.model_validate({"optimiser": optimiser})
    found = why_not_stacked(make_model(CONFIG, 1), [], config)
    assert found == "" if not reason else reason in found
