"""Fitting is reproducible and resumable, and keeps the weights that it was asked to keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import permmoe.training.fit as fit_module
from permmoe.config import TrainConfig
from permmoe.data.dataset import VisitData
from permmoe.evaluation.combinations import ErrorSums
from permmoe.model import PerMMoE
from permmoe.training.fit import EpochReport, FitState, fit
from permmoe.training.means import set_means
from permmoe.training.seeds import make_model
from tests.support.small_training import CONFIG, TRAIN, are_identical, weights_of


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
    assert are_identical(weights_of(resumed), weights_of(undisturbed))
    assert are_identical(last.weights, states[-1].weights)
    assert are_identical(last.optimiser, states[-1].optimiser)
    assert (last.epoch, last.best_epoch, last.best_mse) == (4, states[-1].best_epoch, states[-1].best_mse)


def test_states_of_earlier_epochs_are_not_overwritten_by_later_ones(visits: VisitData, held_out: VisitData) -> None:
    states: list[FitState] = []
    copies: list[dict[str, Tensor]] = []

    def keep(report: EpochReport) -> None:
        states.append(report.state)
        both = {**report.state.weights, **report.state.optimiser}
        copies.append({name: value.clone() for name, value in both.items()})

    fit(make_model(CONFIG, 0), visits, held_out, TRAIN, on_epoch=keep)
    assert all(are_identical({**s.weights, **s.optimiser}, c) for s, c in zip(states, copies, strict=True))
    assert not are_identical(states[0].weights, states[1].weights)


def test_same_seed_is_bitwise_the_same_and_another_is_not(visits: VisitData, held_out: VisitData) -> None:
    first, again = fitted(visits, held_out)[0], fitted(visits, held_out)[0]
    other = fitted(visits, held_out, TRAIN.model_copy(update={"seed": 14}))[0]
    assert are_identical(weights_of(first), weights_of(again))
    assert not are_identical(weights_of(first), weights_of(other))
    assert are_identical(weights_of(make_model(CONFIG, 3)), weights_of(make_model(CONFIG, 3)))
    assert not are_identical(weights_of(make_model(CONFIG, 3)), weights_of(make_model(CONFIG, 4)))


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
    assert are_identical(weights_of(first), weights_of(second))


def test_early_stopping_restores_the_best_epoch(
    visits: VisitData, held_out: VisitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([5.0, 3.0, 4.0, 3.5, 3.0, 1.0])
    monkeypatch.setattr(fit_module, "combination_sums", lambda model, data: {"t1": _scored(next(scores))})
    config = TRAIN.model_copy(update={"epochs": 17, "patience_epochs": 2})
    states: list[FitState] = []
    model = make_model(CONFIG, 0)
    last = fit(model, visits, held_out, config, on_epoch=lambda report: states.append(report.state))
    assert [s.epoch for s in states] == [0, 1, 2, 3]
    assert (last.best_epoch, last.best_mse) == (1, 3.0)
    assert are_identical(weights_of(model), states[1].weights)
    assert not are_identical(weights_of(model), states[3].weights)
    resumed = make_model(CONFIG, 1)
    assert fit(resumed, visits, held_out, config, resume=last).epoch == 3
    assert are_identical(weights_of(resumed), weights_of(model))


def test_running_mean_begins_after_the_warm_up_and_is_what_is_evaluated_and_kept(
    visits: VisitData, held_out: VisitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[dict[str, Tensor]] = []

    def evaluate(model: PerMMoE, data: VisitData) -> dict[str, ErrorSums]:
        evaluated.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"t1": _scored(1.0)}

    monkeypatch.setattr(fit_module, "combination_sums", evaluate)
    config = TRAIN.model_copy(update={"epochs": 5, "warmup_epochs": 2, "averaging_decay": 0.75, "keep": "last"})
    model, states = fitted(visits, held_out, config)
    assert not states[1].average and are_identical(evaluated[1], states[1].weights)
    for name, kept in weights_of(model).items():
        third, fourth, fifth = (state.weights[name].double() for state in states[2:])
        expected = 0.75**2 * third + 0.25 * 0.75 * fourth + 0.25 * fifth
        assert torch.allclose(kept.double(), expected, atol=1e-6)
    assert are_identical(evaluated[-1], weights_of(model)) and not are_identical(weights_of(model), states[-1].weights)
    plain = fitted(visits, held_out, config.model_copy(update={"averaging_decay": 0.0}))[1]
    assert are_identical(states[-1].weights, plain[-1].weights), "training must go on from the newest weights"


def test_keeping_the_last_epoch_does_not_look_at_validation(
    visits: VisitData, held_out: VisitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([1.0, 5.0, 3.0, 4.0, 3.5])
    monkeypatch.setattr(fit_module, "combination_sums", lambda model, data: {"t1": _scored(next(scores))})
    model, states = fitted(visits, held_out, TRAIN.model_copy(update={"keep": "last"}))
    assert states[-1].best_epoch == TRAIN.epochs - 1
    assert are_identical(weights_of(model), states[-1].weights)


def test_an_epoch_without_a_validation_is_never_kept_as_the_best(
    visits: VisitData, held_out: VisitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([2.0, 5.0, 3.0])
    monkeypatch.setattr(fit_module, "combination_sums", lambda model, data: {"t1": _scored(next(scores))})
    model, states = fitted(visits, held_out, TRAIN.model_copy(update={"validate_every": 2}))
    assert (states[-1].best_epoch, states[-1].best_mse) == (1, 2.0), "epochs 2, 4 and the last are validated"
    assert are_identical(weights_of(model), states[1].weights)
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
    assert are_identical(weights_of(model), states[-1].weights)


def test_fit_centres_on_the_training_visits_only(visits: VisitData, held_out: VisitData) -> None:
    alone = make_model(CONFIG, TRAIN.seed)
    set_means(alone, visits)
    model, _ = fitted(visits, held_out, TRAIN.model_copy(update={"epochs": 1}))
    name = f"encoders.{CONFIG.names[0]}.features.centre"
    assert torch.equal(weights_of(model)[name], weights_of(alone)[name])
