"""Fitting is reproducible, resumable, and counts what it did."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

import permmoe.training.trainer as trainer
from permmoe.config import EncoderConfig, TrainConfig, VolumeGrid
from permmoe.data.dataset import VisitData
from permmoe.data.rows import MemoryRows
from permmoe.evaluation.combinations import ErrorSums
from permmoe.layers.encoders import Centred
from permmoe.model import PerMMoE
from permmoe.training.trainer import (
    EpochReport,
    FitState,
    derive_seed,
    epoch_order,
    fit,
    make_model,
    modality_dropout,
    set_means,
    train_epochs,
)
from tests.support.model_batches import small_config
from tests.support.small_visits import small_visits

CONFIG = small_config(dropout=0.1)
TRAIN = TrainConfig(epochs=5, warmup_epochs=2, batch_size=7, modality_dropout=0.3, learning_rate=3e-3, seed=13)


@pytest.fixture(scope="module")
def visits() -> VisitData:
    return small_visits(CONFIG, 23)


@pytest.fixture(scope="module")
def held_out() -> VisitData:
    return small_visits(CONFIG, 11, seed=1)


def weights(model: PerMMoE) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _scored(squared: float) -> ErrorSums:
    return ErrorSums(1, squared, 0.0, 0.0, 0.0)


def fitted(train: VisitData, validation: VisitData, config: TrainConfig = TRAIN) -> tuple[PerMMoE, list[FitState]]:
    model, states = make_model(CONFIG, config.seed), []
    fit(model, train, validation, config, on_epoch=lambda report: states.append(report.state))
    return model, states


@pytest.mark.parametrize("averaging_decay", [0.0, 0.75])
@pytest.mark.parametrize("killed_after", [0, 2, 4])
def test_resumed_fit_ends_with_the_weights_and_optimiser_of_an_undisturbed_one(
    visits: VisitData, held_out: VisitData, killed_after: int, averaging_decay: float
) -> None:
    config = TRAIN.model_copy(update={"averaging_decay": averaging_decay})
    undisturbed, states = fitted(visits, held_out, config)
    resumed = make_model(CONFIG, seed=99)
    last = fit(resumed, visits, held_out, config, resume=states[killed_after])
    assert identical(weights(resumed), weights(undisturbed))
    assert identical(dict(last.weights), dict(states[-1].weights))
    assert identical(dict(last.optimiser), dict(states[-1].optimiser))
    assert (last.epoch, last.best_epoch, last.best_mse) == (4, states[-1].best_epoch, states[-1].best_mse)


def test_states_of_earlier_epochs_are_not_overwritten_by_later_ones(visits: VisitData, held_out: VisitData) -> None:
    states: list[FitState] = []
    copies: list[dict[str, Tensor]] = []

    def keep(report: EpochReport) -> None:
        states.append(report.state)
        both = {**report.state.weights, **report.state.optimiser}
        copies.append({name: value.clone() for name, value in both.items()})

    fit(make_model(CONFIG, 0), visits, held_out, TRAIN, on_epoch=keep)
    assert all(identical({**s.weights, **s.optimiser}, c) for s, c in zip(states, copies, strict=True))
    assert not identical(dict(states[0].weights), dict(states[1].weights))


def test_same_seed_is_bitwise_the_same_and_another_is_not(visits: VisitData, held_out: VisitData) -> None:
    first, again = fitted(visits, held_out)[0], fitted(visits, held_out)[0]
    other = fitted(visits, held_out, TRAIN.model_copy(update={"seed": 14}))[0]
    assert identical(weights(first), weights(again))
    assert not identical(weights(first), weights(other))
    assert identical(weights(make_model(CONFIG, 3)), weights(make_model(CONFIG, 3)))
    assert not identical(weights(make_model(CONFIG, 3)), weights(make_model(CONFIG, 4)))


def test_epochs_in_one_call_or_in_several_are_the_same(visits: VisitData) -> None:
    together, apart = make_model(CONFIG, 0), make_model(CONFIG, 0)
    train_epochs(together, visits, TRAIN, first_epoch=0, epochs=3, seed=5)
    optimiser = trainer.make_optimiser(apart, TRAIN)
    for epoch in range(3):
        train_epochs(apart, visits, TRAIN, first_epoch=epoch, epochs=1, seed=5, optimiser=optimiser)
    assert identical(weights(together), weights(apart))


def test_global_generators_are_left_alone(visits: VisitData, held_out: VisitData) -> None:
    def draws() -> tuple[float, float]:
        return torch.rand(()).item(), np.random.random()

    for training in (False, True):
        torch.manual_seed(3)
        np.random.seed(3)
        if training:
            fitted(visits, held_out, TRAIN.model_copy(update={"epochs": 1}))
            seen = draws()
        else:
            expected = draws()
    assert seen == expected


def test_global_generator_has_no_influence(visits: VisitData, held_out: VisitData) -> None:
    torch.manual_seed(1)
    first = fitted(visits, held_out, TRAIN.model_copy(update={"epochs": 1}))[0]
    torch.manual_seed(2)
    second = fitted(visits, held_out, TRAIN.model_copy(update={"epochs": 1}))[0]
    assert identical(weights(first), weights(second))


def test_derived_seeds_depend_on_every_part_and_its_place() -> None:
    seeds = {
        derive_seed(*parts) for parts in [(1, "a", 2), (1, "a", 3), (1, "b", 2), (11, "a"), (1, "1a"), ("a", 1, 2)]
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "epoch", 2) == derive_seed(1, "epoch", 2)


def test_warmup_visits_the_fullest_first_with_ties_in_random_order() -> None:
    observed = torch.tensor([[j < 1 + i % 3 for j in range(3)] for i in range(33)])
    generator = torch.Generator().manual_seed(0)
    orders = [epoch_order(observed, generator, "most_first") for _ in range(2)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(33))
        assert observed[order].sum(1).tolist() == [3] * 11 + [2] * 11 + [1] * 11
    assert not torch.equal(*orders)
    mixed = epoch_order(observed, generator, None)
    assert sorted(mixed.tolist()) == list(range(33))
    assert observed[mixed].sum(1).tolist() != [3] * 11 + [2] * 11 + [1] * 11


def test_only_the_warmup_epochs_are_ordered(visits: VisitData, monkeypatch: pytest.MonkeyPatch) -> None:
    ordered: list[bool] = []

    def spy(observed: Tensor, generator: torch.Generator, by_size: str | None) -> Tensor:
        ordered.append(by_size == "most_first")
        return epoch_order(observed, generator, by_size)

    monkeypatch.setattr(trainer, "epoch_order", spy)
    train_epochs(make_model(CONFIG, 0), visits, TRAIN, first_epoch=1, epochs=3, seed=0)
    assert ordered == [True, False, False]


def test_modality_dropout_hits_its_rate_and_leaves_every_visit_a_modality() -> None:
    rate, n = 0.4, 20_000
    for size in (1, 2, 3):
        observed = (torch.arange(3) < size).expand(n, 3)
        withheld = modality_dropout(observed, rate, torch.Generator().manual_seed(size))
        assert not bool((withheld & ~observed).any())
        assert bool((observed & ~withheld).any(1).all())
        # Withholding all is turned into withholding none.
        expected = rate - rate**size
        tolerance = 5 * (expected * (1 - expected) / n) ** 0.5
        for share in withheld.double().mean(0)[:size].tolist():
            assert share == pytest.approx(expected, abs=tolerance)
    assert not modality_dropout(observed, 0.0, torch.Generator().manual_seed(0)).any()


def test_exposure_agrees_with_counting_visit_by_visit(visits: VisitData, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, ...]] = []
    gates: list[Tensor] = []
    forward = PerMMoE.forward

    def spy(model: PerMMoE, batch: object, **settings: bool) -> object:
        output = forward(model, batch, **settings)  # type: ignore[arg-type]
        seen.extend(tuple(row) for row in batch.observed.tolist())  # type: ignore[attr-defined]
        gates.append(output.routing.gates.detach())
        return output

    monkeypatch.setattr(PerMMoE, "forward", spy)
    exposure = train_epochs(make_model(CONFIG, 0), visits, TRAIN, first_epoch=0, epochs=5, seed=2).exposure
    masks = Counter(sum(1 << j for j, has in enumerate(row) if has) for row in seen)
    assert dict(exposure.patterns) == {mask: n / 5 for mask, n in masks.items()}
    assert exposure.visits == pytest.approx(len(visits))
    for j, name in enumerate(visits.names):
        assert exposure.observed[name] == pytest.approx(sum(row[j] for row in seen) / 5)
        assert exposure.imputed[name] == pytest.approx(sum(not row[j] for row in seen) / 5)
    mass = torch.zeros(CONFIG.experts)
    for part in gates:
        for visit, modality, token in product(*map(range, part.shape[:3])):
            mass += part[visit, modality, token] / (part.shape[1] * part.shape[2])
    torch.testing.assert_close(exposure.expert_mass, mass / 5, rtol=1e-4, atol=1e-4)
    assert exposure.expert_mass.sum().item() == pytest.approx(len(visits), rel=1e-4)


@pytest.mark.parametrize("micro_batch", [1, 3, 7, 100])
def test_micro_batches_add_up_to_the_whole_batchs_step(visits: VisitData, micro_batch: int) -> None:
    """All but what cannot: balance compares the visits of a micro-batch, and noise is drawn in another order.

    Steps in proportion to the gradient: AdamW makes whole steps of what is nothing but rounding.
    """
    config = small_config(unimodal_heads=True, router_noise=False)
    whole = TRAIN.model_copy(update={"balance": False, "auxiliary_weight": 0.5, "batch_size": 11})
    apart = whole.model_copy(update={"micro_batch": micro_batch})
    models = [make_model(config, 0), make_model(config, 0)]
    records = [
        train_epochs(
            model, visits, settings, first_epoch=0, epochs=2, seed=0, proximal_weight=0.3,
            optimiser=torch.optim.SGD(model.parameters(), lr=0.1),
        )
        for model, settings in zip(models, (whole, apart), strict=True)
    ]  # fmt: skip
    assert records[1].loss_sum == pytest.approx(records[0].loss_sum, rel=1e-5)
    assert records[1].exposure.patterns == records[0].exposure.patterns
    torch.testing.assert_close(records[1].exposure.expert_mass, records[0].exposure.expert_mass, atol=1e-3, rtol=0)
    for name, value in weights(models[0]).items():
        torch.testing.assert_close(weights(models[1])[name], value, atol=1e-5, rtol=1e-4)


def test_micro_batches_have_the_whole_batchs_gradient_but_for_balance(visits: VisitData) -> None:
    config = small_config(unimodal_heads=True, router_noise=False)

    def gradient(**settings: object) -> Tensor:
        model, found = make_model(config, 0), []
        optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
        optimiser.register_step_pre_hook(
            lambda *_: found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        )
        train = TRAIN.model_copy(update={"batch_size": 23, "gradient_norm": 1e9, "auxiliary_weight": 0.5, **settings})
        train_epochs(model, visits, train, first_epoch=0, epochs=1, seed=0, optimiser=optimiser)
        [one] = found
        return one

    def difference(**settings: object) -> float:
        whole, apart = gradient(**settings), gradient(**settings, micro_batch=5)
        return float((apart - whole).norm() / whole.norm())

    assert difference(balance=False) < 1e-5
    assert difference(balance=True) > 1e-3


@pytest.mark.parametrize("kind", ["pooled", "sfcn_lite"])
def test_recomputed_encoders_train_to_the_same_bits_dropout_included(kind: str) -> None:
    encoder = EncoderConfig.model_validate({"kind": kind, "cells": (2, 3, 5), "dropout": 0.4})
    config = small_config(2, 1, encoder=encoder, grid=VolumeGrid(shape=(8, 9, 7)), dropout=0.2)
    data, calls, trained = small_visits(config, 13), [], []
    for recompute in (False, True):
        model = make_model(config, 0)
        model.encoders[config.names[0]].features.register_forward_hook(lambda *_: calls.append(1))
        settings = TRAIN.model_copy(update={"checkpoint_encoders": recompute})
        train_epochs(model, data, settings, first_epoch=0, epochs=2, seed=0)
        trained.append((weights(model), len(calls)))
    assert identical(trained[0][0], trained[1][0])
    assert trained[1][1] == 3 * trained[0][1], "each volume is encoded again in the backward pass"


def test_proximal_term_keeps_the_weights_near_where_they_began(visits: VisitData) -> None:
    def distance(proximal_weight: float) -> float:
        model = make_model(CONFIG, 0)
        start = [p.detach().clone() for p in model.parameters()]
        train_epochs(model, visits, TRAIN, first_epoch=0, epochs=4, seed=0, proximal_weight=proximal_weight)
        return sum((p - q).square().sum().item() for p, q in zip(model.parameters(), start, strict=True)) ** 0.5

    free, held, tight = distance(0.0), distance(1.0), distance(100.0)
    assert tight < held < free


def test_early_stopping_restores_the_best_epoch(
    visits: VisitData, held_out: VisitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([5.0, 3.0, 4.0, 3.5, 3.0, 1.0])
    monkeypatch.setattr(trainer, "combination_sums", lambda model, data: {"t1": _scored(next(scores))})
    config = TRAIN.model_copy(update={"epochs": 17, "patience_epochs": 2})
    states: list[FitState] = []
    model = make_model(CONFIG, 0)
    last = fit(model, visits, held_out, config, on_epoch=lambda report: states.append(report.state))
    assert [s.epoch for s in states] == [0, 1, 2, 3]
    assert (last.best_epoch, last.best_mse) == (1, 3.0)
    assert identical(weights(model), dict(states[1].weights))
    assert not identical(weights(model), dict(states[3].weights))
    resumed = make_model(CONFIG, 1)
    assert fit(resumed, visits, held_out, config, resume=last).epoch == 3
    assert identical(weights(resumed), weights(model))


def test_running_mean_begins_after_the_warm_up_and_is_what_is_judged_and_kept(
    visits: VisitData, held_out: VisitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[dict[str, Tensor]] = []

    def judge(model: PerMMoE, data: VisitData) -> dict[str, ErrorSums]:
        judged.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"t1": _scored(1.0)}

    monkeypatch.setattr(trainer, "combination_sums", judge)
    config = TRAIN.model_copy(update={"epochs": 5, "warmup_epochs": 2, "averaging_decay": 0.75, "keep": "last"})
    model, states = fitted(visits, held_out, config)
    assert not states[1].average and identical(judged[1], dict(states[1].weights))
    for name, kept in weights(model).items():
        third, fourth, fifth = (state.weights[name].double() for state in states[2:])
        expected = 0.75**2 * third + 0.25 * 0.75 * fourth + 0.25 * fifth
        assert torch.allclose(kept.double(), expected, atol=1e-6)
    assert identical(judged[-1], weights(model)) and not identical(weights(model), dict(states[-1].weights))
    plain = fitted(visits, held_out, config.model_copy(update={"averaging_decay": 0.0}))[1]
    assert identical(dict(states[-1].weights), dict(plain[-1].weights)), "training must go on from the newest weights"


def test_keeping_the_last_epoch_does_not_look_at_validation(
    visits: VisitData, held_out: VisitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([1.0, 5.0, 3.0, 4.0, 3.5])
    monkeypatch.setattr(trainer, "combination_sums", lambda model, data: {"t1": _scored(next(scores))})
    model, states = fitted(visits, held_out, TRAIN.model_copy(update={"keep": "last"}))
    assert states[-1].best_epoch == TRAIN.epochs - 1
    assert identical(weights(model), dict(states[-1].weights))


def test_an_epoch_without_a_validation_is_never_kept_as_the_best(
    visits: VisitData, held_out: VisitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([2.0, 5.0, 3.0])
    monkeypatch.setattr(trainer, "combination_sums", lambda model, data: {"t1": _scored(next(scores))})
    model, states = fitted(visits, held_out, TRAIN.model_copy(update={"validate_every": 2}))
    assert (states[-1].best_epoch, states[-1].best_mse) == (1, 2.0), "epochs 2, 4 and the last are validated"
    assert identical(weights(model), dict(states[1].weights))
    with pytest.raises(StopIteration):
        next(scores)


def test_waiting_for_a_best_epoch_while_keeping_the_last_is_refused() -> None:
    with pytest.raises(ValueError, match="set one of them"):
        TrainConfig(patience_epochs=2, keep="last")


def test_without_validation_visits_the_last_epoch_is_kept(visits: VisitData) -> None:
    nobody = visits.subset(torch.tensor([], dtype=torch.long))
    model, states = fitted(visits, nobody, TRAIN.model_copy(update={"patience_epochs": 1}))
    assert len(states) == TRAIN.epochs
    assert states[-1].best_epoch == TRAIN.epochs - 1
    assert identical(weights(model), dict(states[-1].weights))


def test_unknown_target_stops_training_before_it_spoils_the_weights(visits: VisitData) -> None:
    model = make_model(CONFIG, 0)
    before = weights(model)
    target = visits.target.clone()
    target[3] = float("nan")
    with pytest.raises(FloatingPointError, match="training loss became nan in epoch 7"):
        train_epochs(
            model, replace(visits, target=target), TRAIN.model_copy(update={"batch_size": 23}), first_epoch=7,
            epochs=1, seed=0,
        )  # fmt: skip
    assert identical(weights(model), before)


def test_gradient_that_is_not_finite_stops_training_before_it_spoils_the_weights(visits: VisitData) -> None:
    model = make_model(CONFIG, 0)
    model.head.out.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weights(model)
    with pytest.raises(FloatingPointError, match="gradient"):
        train_epochs(model, visits, TRAIN, first_epoch=0, epochs=1, seed=0)
    assert identical(weights(model), before)


def test_no_visit_and_no_epoch_are_refused(visits: VisitData) -> None:
    nobody = visits.subset(torch.tensor([], dtype=torch.long))
    with pytest.raises(ValueError, match="no visit to train on"):
        train_epochs(make_model(CONFIG, 0), nobody, TRAIN, first_epoch=0, epochs=1, seed=0)
    with pytest.raises(ValueError, match="no epoch was asked for"):
        fit(make_model(CONFIG, 0), visits, nobody, TRAIN.model_copy(update={"epochs": 0}))


def test_centre_is_the_mean_over_the_visits_given_and_no_gradient_moves_it(
    visits: VisitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "READ_AT_ONCE", 3)
    train = visits.subset(torch.arange(17))
    model = make_model(CONFIG, 0)
    before = weights(model)
    record = set_means(model, train)
    for column, name in enumerate(CONFIG.names):
        rows = visits.inputs[name]
        assert isinstance(rows, MemoryRows)
        expected = sum(rows.rows[int(visits.stored_rows[i, column])] for i in range(17) if visits.observed[i, column])
        n = int(visits.observed[:17, column].sum())
        centre = next(m for m in model.encoders[name].modules() if isinstance(m, Centred)).centre
        torch.testing.assert_close(centre.data, torch.as_tensor(expected) / n, atol=1e-5, rtol=0)
        assert record.exposure.observed[name] == n
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed == {f"encoders.{name}.features.centre" for name in CONFIG.names}
    centred = weights(model)
    train_epochs(model, train, TRAIN, first_epoch=0, epochs=1, seed=0)
    assert all(torch.equal(weights(model)[name], centred[name]) for name in changed)


def test_fit_centres_on_the_training_visits_only(visits: VisitData, held_out: VisitData) -> None:
    alone = make_model(CONFIG, TRAIN.seed)
    set_means(alone, visits)
    model, _ = fitted(visits, held_out, TRAIN.model_copy(update={"epochs": 1}))
    name = f"encoders.{CONFIG.names[0]}.features.centre"
    assert torch.equal(weights(model)[name], weights(alone)[name])


def test_a_modality_that_nobody_has_keeps_its_encoder(visits: VisitData) -> None:
    observed = torch.tensor([[True, True, False]]).expand(13, 3)
    model = make_model(CONFIG, 0)
    before = weights(model)
    data = small_visits(CONFIG, 13, observed=observed)
    set_means(model, data)
    train_epochs(model, data, TRAIN, first_epoch=0, epochs=1, seed=0)
    absent, present = CONFIG.names[2], CONFIG.names[0]
    for name, value in weights(model).items():
        if name.startswith(f"encoders.{absent}."):
            assert torch.equal(value, before[name])
    assert not torch.equal(
        weights(model)[f"encoders.{present}.project.weight"], before[f"encoders.{present}.project.weight"]
    )


def test_training_lowers_the_loss(visits: VisitData) -> None:
    model = make_model(CONFIG, 0)
    first = train_epochs(model, visits, TRAIN, first_epoch=0, epochs=1, seed=0)
    last = train_epochs(model, visits, TRAIN, first_epoch=1, epochs=40, seed=0)
    assert last.loss_sum / last.visits < 0.5 * first.loss_sum / first.visits
