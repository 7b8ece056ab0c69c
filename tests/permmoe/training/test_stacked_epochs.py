"""A stack of models learns what its models learn one by one, whatever stands beside them and fills their batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from permmoe.config import EncoderConfig, ModelConfig, RidgeConfig, RoutingLosses, TrainConfig
from permmoe.data.dataset import VisitData
from permmoe.layers.experts import Experts
from permmoe.layers.noise import Numbers, dropped, predrawn
from permmoe.model import PerMMoE
from permmoe.training.epochs import train_epochs
from permmoe.training.exposure import Exposure, TrainingRecord
from permmoe.training.optimiser import make_optimiser
from permmoe.training.seeds import make_model
from permmoe.training.stacked_epochs import StackedTraining, why_not_stacked
from permmoe.training.stacked_experts import stacked_experts
from permmoe.training.stacked_noise import StackedNoise
from tests.support.model_batches import small_config
from tests.support.small_visits import small_visits

QUIET: dict[str, Any] = {"router_noise": False, "outcome_range": None}
"""Without random numbers in the forward pass, a stack and single models are comparable."""
TRAIN = TrainConfig(batch_size=7, learning_rate=3e-3, weight_decay=0.1, modality_dropout=0.3, gradient_norm=1.0)
ROUNDING = 2e-4
"""Batched products add in another order, and AdamW divides a small gradient by itself: a hundredth of a step."""

VARIANTS: dict[str, tuple[ModelConfig, TrainConfig]] = {
    "volumes": (small_config(3, 0, **QUIET), TRAIN),
    "volumes and tables": (small_config(2, 2, **QUIET), TRAIN),
    "a shared router": (small_config(2, 1, routers="shared", **QUIET), TRAIN),
    "one embedding a modality": (small_config(3, 0, bank="unconditioned", **QUIET), TRAIN),
    "tokens that are not learned": (small_config(3, 0, bank="random", **QUIET), TRAIN),
    "no bank": (small_config(2, 1, bank="none", **QUIET), TRAIN),
    "no bank, as Flex-MoE attends": (small_config(2, 1, bank="none", fusion="flex_moe", **QUIET), TRAIN),
    "FuseMoE": (
        small_config(2, 1, gate="laplace", bank="unconditioned", **QUIET),
        TRAIN.model_copy(update={"specialisation": False, "routing_losses": RoutingLosses(balance="entropy")}),
    ),
    "unimodal heads": (small_config(2, 1, unimodal_heads=True, **QUIET), TRAIN),
    "experts of which one grouped product is made": (small_config(2, 1, width=8, expert_hidden=24, **QUIET), TRAIN),
    "a spread": (small_config(2, 1, spread="gaussian", **QUIET), TRAIN),
    "no auxiliary loss": (
        small_config(2, 1, **QUIET),
        TRAIN.model_copy(update={"balance": False, "specialisation": False}),
    ),
}


def noisy(config: ModelConfig) -> ModelConfig:
    """With dropout everywhere, and noise of the routers."""
    encoder = config.encoder.model_copy(update={"dropout": 0.3})
    return config.model_copy(update={"dropout": 0.2, "router_noise": True, "encoder": encoder})


def trained_alone(config: ModelConfig, data: VisitData, train: TrainConfig, seed: int, epochs: int) -> PerMMoE:
    """One model by the trainer for one model: the slow reference."""
    model = make_model(config, seed)
    optimiser = make_optimiser(model, train)
    for epoch in range(epochs):
        train_epochs(model, data, train, first_epoch=epoch, epochs=1, seed=seed, optimiser=optimiser)
    return model


def trained_together(
    config: ModelConfig, data: list[VisitData], train: TrainConfig, seeds: list[int], epochs: int
) -> list[PerMMoE]:
    models = [make_model(config, seed) for seed in seeds]
    training = StackedTraining(models, data, train, seeds)
    for epoch in range(epochs):
        training.train_epoch(epoch)
    for number in range(len(models)):
        training.stack.write(number)
    return models


def assert_close(one: PerMMoE, other: PerMMoE, atol: float = ROUNDING) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        if name == "attention.to_qkv.bias":
            # Attention does not depend on the keys' bias: its gradient is rounding alone, of which AdamW makes steps.
            (query, _, value), (other_query, _, other_value) = a.chunk(3), b.chunk(3)
            a, b = torch.cat([query, value]), torch.cat([other_query, other_value])
        torch.testing.assert_close(a, b, atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_models_in_a_stack_learn_what_each_learns_by_itself(variant: str) -> None:
    config, train = VARIANTS[variant]
    data = [small_visits(config, n, seed=n) for n in (23, 14, 5)]
    together = trained_together(config, data, train, [1, 2, 3], epochs=2)
    for model, own, seed in zip(together, data, [1, 2, 3], strict=True):
        start, alone = make_model(config, seed), trained_alone(config, own, train, seed, epochs=2)
        assert_close(model, alone)
        assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True))


def test_tokens_of_a_stack_on_the_cpu_go_to_their_experts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(2, 1, width=8, expert_hidden=24, **QUIET)
    rows: list[tuple[int, ...]] = []

    def watched(tokens: Tensor, weights: Tensor, **given: Any) -> Tensor:
        rows.append(tuple(tokens.shape))
        return F.grouped_mm(tokens, weights, **given)

    monkeypatch.setattr("permmoe.layers.experts.F", SimpleNamespace(gelu=F.gelu, grouped_mm=watched))
    data = [small_visits(config, 7, seed=n) for n in range(3)]
    trained_together(config, data, TRAIN, [1, 2, 3], epochs=1)
    n_tokens = 3 * 7 * len(config.modalities) * config.tokens
    assert rows == [(config.top_k * n_tokens, 8), (config.top_k * n_tokens, 24)]


def test_the_experts_of_a_stack_are_for_a_stack() -> None:
    config = small_config(width=8, expert_hidden=24)
    with pytest.raises(RuntimeError, match="outside of a stack"):
        stacked_experts(Experts(config), torch.randn(3, 8), torch.rand(3, config.experts))


def test_an_encoder_without_a_visit_stays_as_it_is_and_other_models_encoders_move() -> None:
    config = small_config(2, 0, **QUIET)
    lacking = torch.tensor([[True, False]] * 9)
    data = [small_visits(config, 9, observed=lacking), small_visits(config, 9, seed=1)]
    together = trained_together(config, data, TRAIN, [4, 5], epochs=1)
    before = [make_model(config, seed).encoders["volume1"].project.weight for seed in (4, 5)]
    assert torch.equal(together[0].encoders["volume1"].project.weight, before[0])
    assert not torch.equal(together[1].encoders["volume1"].project.weight, before[1])


def test_random_numbers_of_a_model_do_not_depend_on_what_stands_beside_it() -> None:
    config = noisy(small_config(2, 1, outcome_range=None))
    data = [small_visits(config, 14, seed=n) for n in range(3)]
    alone = trained_together(config, data[:1], TRAIN, [6], epochs=2)[0]
    beside = trained_together(config, data, TRAIN, [6, 7, 8], epochs=2)[0]
    other = trained_together(config, data[:1], TRAIN, [9], epochs=2)[0]
    assert_close(alone, beside)
    assert any((a - b).abs().max() > 10 * ROUNDING for a, b in zip(alone.parameters(), other.parameters(), strict=True))


def test_numbers_of_a_model_do_not_depend_on_how_much_another_observed() -> None:
    config = small_config(2, 0)
    noise = StackedNoise(make_model(noisy(config), 0), tuple(torch.zeros(1, 1, 2, 3, 5) for _ in range(2)), places=7)

    def drawn(*counts: tuple[int, int]) -> list[Tensor]:
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(counts))]
        return [x[0] for numbers in noise.draw(generators, torch.tensor(counts)) for x in numbers]

    alone, beside = drawn((2, 3)), drawn((2, 3), (5, 7))
    assert [len(x) for x in alone[:2]] == [2, 3] and [len(x) for x in beside[:2]] == [5, 7]
    for a, b in zip(alone, beside, strict=True):
        assert torch.equal(a, b[: len(a)]) and not b[len(a) :].any()


def test_models_draw_numbers_of_their_own_seed() -> None:
    config = noisy(small_config(2, 1, outcome_range=None))
    # Everybody is like the first, so that their order plays no role.
    data = small_visits(config, 9, observed=torch.ones(9, 3, dtype=torch.bool))
    for values in (data.baseline, data.target, *(rows.rows for rows in data.inputs.values())):
        values[:] = values[0].clone()
    train = TRAIN.model_copy(update={"modality_dropout": 0.0})
    models = [make_model(config, 1) for _ in range(3)]
    training = StackedTraining(models, [data] * 3, train, [6, 7, 6])
    training.train_epoch(0)
    for number in range(3):
        training.stack.write(number)
    assert_close(models[0], models[2])
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    assert any((a - b).abs().max() > 10 * ROUNDING for a, b in pairs)


def test_dropout_in_a_stack_drops_the_stated_share_and_keeps_the_mean() -> None:
    with predrawn(Numbers([torch.rand(100_000)], [])):
        found = dropped(torch.ones(100_000), 0.3, True)
    assert (found == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert found.mean() == pytest.approx(1.0, abs=0.01)


def test_records_are_those_of_single_trainings() -> None:
    config = small_config(2, 1, **QUIET)
    data = [small_visits(config, n, seed=n) for n in (23, 5)]
    models = [make_model(config, seed) for seed in (1, 2)]
    found = StackedTraining(models, data, TRAIN, [1, 2]).train_epoch(0)
    for record, own, seed in zip(found, data, [1, 2], strict=True):
        expected = train_epochs(make_model(config, seed), own, TRAIN, first_epoch=0, epochs=1, seed=seed)
        assert_records_close(record, expected)


def assert_records_close(one: TrainingRecord, other: TrainingRecord) -> None:
    assert one.visits == other.visits
    assert one.loss_sum == pytest.approx(other.loss_sum, rel=1e-4)
    for a, b in ((one.exposure, other.exposure), (one.behind, other.behind)):
        assert countable(a) == countable(b)
        torch.testing.assert_close(a.expert_mass, b.expert_mass, atol=1e-3, rtol=0)


def countable(exposure: Exposure) -> tuple[object, ...]:
    return exposure.visits, dict(exposure.observed), dict(exposure.imputed), dict(exposure.patterns)


def test_a_model_that_stopped_stays_as_it_is_and_the_others_go_on() -> None:
    config = small_config(2, 0, **QUIET)
    data = [small_visits(config, 9, seed=n) for n in range(2)]
    models = [make_model(config, seed) for seed in (1, 2)]
    training = StackedTraining(models, data, TRAIN, [1, 2])
    training.train_epoch(0)
    training.stack.write(0)
    record = training.train_epoch(1, [False, True])
    assert [own.visits for own in record] == [0, 9]
    stopped = {name: value.clone() for name, value in models[0].state_dict().items()}
    for number in range(2):
        training.stack.write(number)
    assert all(torch.equal(value, stopped[name]) for name, value in models[0].state_dict().items())
    assert_close(models[1], trained_alone(config, data[1], TRAIN, 2, epochs=2))


@pytest.mark.parametrize("spoilt", ["target", "input"])
def test_a_loss_that_is_no_number_stops_before_the_step_and_names_the_model(spoilt: str) -> None:
    config = small_config(2, 0, **QUIET)
    data = [small_visits(config, 9, seed=n) for n in range(2)]
    if spoilt == "target":
        data[1].target[3] = float("nan")
    else:
        data[1].inputs["volume0"].rows[2] = float("inf")
    models = [make_model(config, seed) for seed in (1, 2)]
    training = StackedTraining(models, data, TRAIN.model_copy(update={"batch_size": 9}), [1, 2])
    with pytest.raises(FloatingPointError, match="model 1"):
        training.train_epoch(0)
    training.stack.write(1)
    for name, value in make_model(config, 2).state_dict().items():
        assert torch.equal(models[1].state_dict()[name], value)


def test_models_of_other_settings_or_without_visits_are_refused() -> None:
    config = small_config(2, 0, **QUIET)
    data = small_visits(config, 5)
    other = make_model(config.model_copy(update={"top_k": 1}), 0)
    with pytest.raises(ValueError, match="all of one configuration"):
        StackedTraining([make_model(config, 0), other], [data, data], TRAIN, [0, 1])
    with pytest.raises(ValueError, match="no visit"):
        StackedTraining([make_model(config, 0)], [data.subset(torch.empty(0, dtype=torch.long))], TRAIN, [0])
    with pytest.raises(ValueError, match="micro_batch"):
        StackedTraining([make_model(config, 0)], [data], TRAIN.model_copy(update={"micro_batch": 2}), [0])


def test_an_encoder_that_reads_voxels_is_not_stacked() -> None:
    config = small_config(2, 0, encoder=EncoderConfig(kind="sfcn_lite"), **QUIET)
    assert "reads voxels" in why_not_stacked(make_model(config, 0), [], TRAIN)
    assert not why_not_stacked(make_model(small_config(2, 0), 0), [], TRAIN)


def test_a_model_that_translates_what_is_missing_is_not_stacked() -> None:
    config = small_config(2, 0, bank="translated", ridge=RidgeConfig(cells=(2, 3, 5), share=0.0), **QUIET)
    assert "no translation" in why_not_stacked(make_model(config, 0), [], TRAIN)


def test_visits_that_models_share_are_on_the_device_once() -> None:
    config = small_config(2, 0, **QUIET)
    data = small_visits(config, 12)
    parts = [data.subset(torch.arange(7)), data.subset(torch.arange(4, 12))]
    training = StackedTraining([make_model(config, seed) for seed in (1, 2)], parts, TRAIN, [1, 2])
    shared: list[Tensor] = [own.rows for own in training._inputs.of_modality]
    assert [len(rows) for rows in shared] == [len(data.inputs[name].rows) + 1 for name in data.names]
