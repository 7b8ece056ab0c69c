"""The head of the spread learns who is hard to predict, and the prediction does not notice that it is there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from permmoe.calibration.calibrate import predicted
from permmoe.config import ModelConfig, PrivacyConfig, TrainConfig
from permmoe.evaluation.combinations import combination_predictions
from permmoe.federated.plan import RoundPlan
from permmoe.model import PerMMoE
from permmoe.training.fit import fit
from permmoe.training.losses import spread_loss
from permmoe.training.seeds import make_model
from tests.support.model_batches import random_batch, random_pattern
from tests.support.small_visits import small_visits
from tests.support.tiny_federation import MODEL

SPREADING = MODEL.model_copy(update={"spread": "laplace"})
TRAIN = TrainConfig(epochs=4, batch_size=8, warmup_epochs=1, averaging_decay=0.5, micro_batch=3, seed=5)


def fitted(config: ModelConfig, train: TrainConfig = TRAIN) -> PerMMoE:
    model = make_model(config, 3)
    fit(model, small_visits(config, 41), small_visits(config, 13, seed=1), train)
    return model


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("initialisation", ["scaled", "flex_moe"])
def test_the_prediction_is_the_same_bit_by_bit_with_a_spread_and_without(keep: str, initialisation: str) -> None:
    train = TRAIN.model_copy(update={"keep": keep})
    # Of gradients this large much is clipped, and by what counts into their norm.
    plain, spreading = (
        fitted(c.model_copy(update={"initialisation": initialisation}), train.model_copy(update={"gradient_norm": 0.1}))
        for c in (MODEL, SPREADING)
    )
    assert spreading.spread is not None and spreading.spread.out.weight.abs().sum() > 0
    weights = spreading.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in plain.state_dict().items())
    new = small_visits(MODEL, 17, seed=2)
    assert (combination_predictions(plain, new) == combination_predictions(spreading, new))[new.observed.all(1)].all()


def test_nothing_flows_back_from_the_spread() -> None:
    torch.manual_seed(0)
    model = PerMMoE(SPREADING)
    batch = random_batch(SPREADING, random_pattern(11, 3))
    spread_loss(model(batch), batch, "gaussian").backward()  # type: ignore[no-untyped-call]
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"spread"}


@pytest.mark.parametrize("likelihood", ["laplace", "gaussian"])
def test_it_learns_that_outcomes_vary_more_at_higher_scores(likelihood: str) -> None:
    config = MODEL.model_copy(update={"spread": likelihood})

    def visits(seed: int):
        found = small_visits(config, 300, seed=seed)
        noise = torch.randn(300, generator=torch.Generator().manual_seed(seed))
        return replace(found, target=noise * (0.3 + 0.4 * found.baseline))

    model = make_model(config, 0)
    fit(model, visits(0), visits(1), TrainConfig(epochs=30, batch_size=32, learning_rate=3e-3, keep="last"))
    new = visits(2)
    spread = torch.from_numpy(predicted(model, new)[1])
    low, high = (spread[rows].nanmean() for rows in (new.baseline < 2, new.baseline > 6))
    assert high > 2 * low


@pytest.mark.parametrize(("likelihood", "expected"), [("laplace", 0.693147 + 1.5), ("gaussian", 0.693147 + 1.125)])
def test_the_loss_is_the_negative_log_likelihood_but_for_constants(likelihood: str, expected: float) -> None:
    torch.manual_seed(0)
    model = PerMMoE(SPREADING)
    batch = random_batch(SPREADING, random_pattern(11, 3))
    output = replace(model(batch), spread=torch.full((11,), 2.0), prediction=batch.target + 3.0)
    assert spread_loss(output, batch, likelihood).item() == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match=r"model\.spread"):
        spread_loss(replace(output, spread=None), batch, likelihood)


def test_settings_without_a_spread_have_the_digest_that_they_had() -> None:
    assert "spread" not in MODEL.canonical_json() and SPREADING.digest() != MODEL.digest()


def test_a_spread_under_differential_privacy_is_refused() -> None:
    private = {
        "privacy": PrivacyConfig(noise_multiplier=1.0).model_dump(),
        "evaluate_every": 0,
        "centring_round": False,
    }
    with pytest.raises(ValueError, match=r"leave model\.spread out"):
        RoundPlan.model_validate({"model": SPREADING.model_dump(), "federation": private})
