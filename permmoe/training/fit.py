"""Fitting a model at one place: epochs, validation, and the weights that are kept; resumable after every epoch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf, sqrt

import torch
from torch import Tensor

from permmoe.config import TrainConfig
from permmoe.data.dataset import VisitData
from permmoe.evaluation.combinations import ErrorSums, combination_sums, mean_squared_error
from permmoe.model import PerMMoE
from permmoe.training.epochs import train_epochs
from permmoe.training.exposure import TrainingRecord
from permmoe.training.hardware import repeatable
from permmoe.training.means import set_means
from permmoe.training.optimiser import load_optimiser, make_optimiser, optimiser_tensors
from permmoe.training.pretraining import pretrain
from permmoe.training.within_memory import at_a_time, visits_of_a_step, within_memory


@dataclass(frozen=True)
class FitState:
    """All that a fit needs to go on after epoch `epoch` as if it had never stopped."""

    epoch: int
    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    """Running mean of the weights over epochs; empty where there is none."""
    best_weights: Mapping[str, Tensor]
    """What the fit would end with: of the best validation so far or, at `keep: last`, of this epoch."""
    best_epoch: int
    best_mse: float
    optimiser: Mapping[str, Tensor]
    """AdamW's moments and step counts, named `<parameter>/<moment>`."""


@dataclass(frozen=True)
class EpochReport:
    """What is known after an epoch."""

    epoch: int
    loss: float
    """Mean training loss a visit."""
    validation: Mapping[str, ErrorSums]
    """By combination; empty in an epoch without a validation."""
    state: FitState

    @property
    def validation_rmse(self) -> float:
        """Root of the squared error averaged over combinations, points; NaN without validation visits."""
        return sqrt(mean_squared_error(self.validation))


def fit(
    model: PerMMoE,
    train: VisitData,
    validation: VisitData,
    config: TrainConfig,
    *,
    scans: VisitData | None = None,
    resume: FitState | None = None,
    is_centred: bool = False,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> FitState:
    """Train in place until `config.epochs` or, with patience, until validation stops improving.

    The model ends with the weights that `config.keep` names: of the best validation epoch (the last one where there are
    no validation visits) or of the last. With `averaging_decay` these are the running mean's. `scans` are the visits
    that encoders are pretrained on where the configuration asks for it, by default those that train. `is_centred` says
    that the model brings the centres of its inputs along and keeps them; it has been pretrained, too. `on_epoch` is
    called after each epoch with a state from which `resume` continues bitwise. An epoch that does not fit into a GPU's
    memory begins anew with micro-batches, which those behind it keep (`within_memory`).
    """
    optimiser = make_optimiser(model, config)
    if resume:
        load_optimiser(optimiser, model, resume.optimiser)
    epochs = fitting(
        model, train, validation, config, scans=scans, resume=resume, is_centred=is_centred, on_epoch=on_epoch
    )
    at_once = visits_of_a_step(config)
    trained: TrainedEpoch | None = None
    while True:
        try:
            asked = epochs.send(trained) if trained else next(epochs)
        except StopIteration as end:
            state: FitState = end.value
            return state
        begin = partial(_put_back, model, optimiser, asked.weights, asked.optimiser)
        fitted = within_memory(at_once, partial(_epoch, model, train, config, asked.epoch, optimiser), begin)
        at_once = fitted.visits_at_once
        trained = TrainedEpoch(fitted.found, optimiser_tensors(optimiser, model))


@dataclass(frozen=True)
class AskedEpoch:
    """An epoch that a fit asks for, and what is as it was before it."""

    epoch: int
    weights: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]
    """The optimiser's state, as in `FitState`."""


@dataclass(frozen=True)
class TrainedEpoch:
    """What a fit is told of an epoch that it asked for."""

    record: TrainingRecord
    optimiser: Mapping[str, Tensor] = field(default_factory=dict)
    """The optimiser's state behind it; empty where nobody will resume the fit."""


def fitting(
    model: PerMMoE,
    train: VisitData,
    validation: VisitData,
    config: TrainConfig,
    *,
    scans: VisitData | None = None,
    resume: FitState | None = None,
    is_centred: bool = False,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Generator[AskedEpoch, TrainedEpoch, FitState]:
    """A fit that leaves the training to its caller: it yields an epoch, and goes on when it is told that the model has
    been trained for it. So several fits can be trained side by side (permmoe.training.stacked_fit).

    Raises ValueError where no epoch is asked for.
    """
    state = resume
    if state is not None:
        model.load_state_dict(dict(state.weights))
    elif not is_centred:
        set_means(model, train)
        if how := config.pretraining:
            with repeatable(config):
                pretrain(
                    model, train if scans is None else scans, how, first_epoch=0, epochs=how.epochs, seed=config.seed
                )
    best_mse, best_epoch = (state.best_mse, state.best_epoch) if state else (inf, -1)
    best: Mapping[str, Tensor] = state.best_weights if state else _snapshot(model)
    average: Mapping[str, Tensor] = state.average if state else {}
    for epoch in range(state.epoch + 1 if state else 0, config.epochs):
        if config.patience_epochs and best_epoch >= 0 and epoch - best_epoch > config.patience_epochs:
            break
        trained = yield AskedEpoch(epoch, state.weights if state else best, state.optimiser if state else {})
        weights = _snapshot(model)
        if config.averaging_decay and epoch >= config.warmup_epochs:
            average = running_mean(average, weights, config.averaging_decay)
        candidate = average or weights
        sums: Mapping[str, ErrorSums] = {}
        is_validated = epoch + 1 == config.epochs or (epoch + 1) % config.validate_every == 0
        if is_validated:
            model.load_state_dict(dict(candidate))
            with repeatable(config):
                sums = combination_sums(model, validation)
            model.load_state_dict(weights)
        mse = mean_squared_error(sums)
        if config.keep == "last" or (is_validated and not mse >= best_mse):
            # A copy, since checkpoints refuse tensors that share memory.
            best_mse, best_epoch, best = mse, epoch, {name: value.clone() for name, value in candidate.items()}
        state = FitState(epoch, weights, average, best, best_epoch, best_mse, trained.optimiser)
        if on_epoch:
            on_epoch(EpochReport(epoch, trained.record.loss_sum / trained.record.visits, sums, state))
    if state is None:
        raise ValueError("nothing to train: no epoch was asked for")
    model.load_state_dict(dict(state.best_weights))
    return state


def running_mean(average: Mapping[str, Tensor], newest: Mapping[str, Tensor], decay: float) -> dict[str, Tensor]:
    """Exponential mean of weights over epochs or rounds (Polyak and Juditsky 1992); a new name starts at its newest.

    Training goes on from the newest weights; the mean is steadier, because what a few visits' noise added cancels out.
    """
    return {
        name: average[name].lerp(value, 1 - decay) if name in average else value.clone()
        for name, value in newest.items()
    }


def _epoch(
    model: PerMMoE,
    train: VisitData,
    config: TrainConfig,
    epoch: int,
    optimiser: torch.optim.Optimizer,
    visits_at_once: int,
) -> TrainingRecord:
    own = at_a_time(config, visits_at_once)
    return train_epochs(model, train, own, first_epoch=epoch, epochs=1, seed=config.seed, optimiser=optimiser)


def _put_back(
    model: PerMMoE, optimiser: torch.optim.Optimizer, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]
) -> None:
    """The state that an epoch began with."""
    model.load_state_dict(dict(weights))
    optimiser.state.clear()
    load_optimiser(optimiser, model, moments)


def _snapshot(model: PerMMoE) -> dict[str, Tensor]:
    return {name: p.detach().cpu().clone() for name, p in model.state_dict().items()}
