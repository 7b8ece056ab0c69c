"""An epoch visits everyone once, in steps that may be computed in pieces, and stops before it spoils the weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import permmoe.training.epochs as epochs_module
from permmoe.config import EncoderConfig, VolumeGrid
from permmoe.data.dataset import VisitData
from permmoe.training.correction import Correction
from permmoe.training.epochs import epoch_order, modality_dropout, train_epochs
from permmoe.training.fit import fit
from permmoe.training.optimiser import make_optimiser
from permmoe.training.seeds import make_model
from tests.support.model_batches import small_config
from tests.support.small_training import CONFIG, TRAIN, are_identical, weights_of
from tests.support.small_visits import small_visits


def test_epochs_in_one_call_or_in_several_are_the_same(visits: VisitData) -> None:
    together, apart = make_model(CONFIG, 0), make_model(CONFIG, 0)
    train_epochs(together, visits, TRAIN, first_epoch=0, epochs=3, seed=5)
    optimiser = make_optimiser(apart, TRAIN)
    for epoch in range(3):
        train_epochs(apart, visits, TRAIN, first_epoch=epoch, epochs=1, seed=5, optimiser=optimiser)
    assert are_identical(weights_of(together), weights_of(apart))


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

    monkeypatch.setattr(epochs_module, "epoch_order", spy)
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
            model, visits, settings, first_epoch=0, epochs=2, seed=0,
            correction=Correction.at(model, proximal_weight=0.3),
            optimiser=torch.optim.SGD(model.parameters(), lr=0.1),
        )
        for model, settings in zip(models, (whole, apart), strict=True)
    ]  # fmt: skip
    assert records[1].loss_sum == pytest.approx(records[0].loss_sum, rel=1e-5)
    assert records[1].exposure.patterns == records[0].exposure.patterns
    torch.testing.assert_close(records[1].exposure.expert_mass, records[0].exposure.expert_mass, atol=1e-3, rtol=0)
    for name, value in weights_of(models[0]).items():
        torch.testing.assert_close(weights_of(models[1])[name], value, atol=1e-5, rtol=1e-4)


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
        trained.append((weights_of(model), len(calls)))
    assert are_identical(trained[0][0], trained[1][0])
    assert trained[1][1] == 3 * trained[0][1], "each volume is encoded again in the backward pass"


def test_unknown_target_stops_training_before_it_spoils_the_weights(visits: VisitData) -> None:
    model = make_model(CONFIG, 0)
    before = weights_of(model)
    target = visits.target.clone()
    target[3] = float("nan")
    with pytest.raises(FloatingPointError, match="training loss became nan in epoch 7"):
        train_epochs(
            model, replace(visits, target=target), TRAIN.model_copy(update={"batch_size": 23}), first_epoch=7,
            epochs=1, seed=0,
        )  # fmt: skip
    assert are_identical(weights_of(model), before)


def test_gradient_that_is_not_finite_stops_training_before_it_spoils_the_weights(visits: VisitData) -> None:
    model = make_model(CONFIG, 0)
    model.head.out.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weights_of(model)
    with pytest.raises(FloatingPointError, match="gradient"):
        train_epochs(model, visits, TRAIN, first_epoch=0, epochs=1, seed=0)
    assert are_identical(weights_of(model), before)


def test_no_visit_and_no_epoch_are_refused(visits: VisitData) -> None:
    nobody = visits.subset(torch.tensor([], dtype=torch.long))
    with pytest.raises(ValueError, match="no visit to train on"):
        train_epochs(make_model(CONFIG, 0), nobody, TRAIN, first_epoch=0, epochs=1, seed=0)
    with pytest.raises(ValueError, match="no epoch was asked for"):
        fit(make_model(CONFIG, 0), visits, nobody, TRAIN.model_copy(update={"epochs": 0}))


def test_training_lowers_the_loss(visits: VisitData) -> None:
    model = make_model(CONFIG, 0)
    first = train_epochs(model, visits, TRAIN, first_epoch=0, epochs=1, seed=0)
    last = train_epochs(model, visits, TRAIN, first_epoch=1, epochs=40, seed=0)
    assert last.loss_sum / last.visits < 0.5 * first.loss_sum / first.visits
