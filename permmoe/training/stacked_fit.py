"""Fitting several models side by side, each as permmoe.training.fit fits one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from permmoe.config import TrainConfig
from permmoe.data.dataset import VisitData
from permmoe.model import PerMMoE
from permmoe.training.fit import EpochReport, FitState, TrainedEpoch, fitting
from permmoe.training.stacked_epochs import StackedTraining


@dataclass(frozen=True)
class Fit:
    """One model, the visits that it is fitted to, and the seed of its training."""

    model: PerMMoE
    train: VisitData
    validation: VisitData
    seed: int
    on_epoch: Callable[[EpochReport], None] | None = None
    scans: VisitData | None = None
    """As in `fit`."""


def fit_stacked(fits: Sequence[Fit], config: TrainConfig) -> list[FitState]:
    """Fit all models in place, as `fit` does with each fit's seed; the states that they end with.

    One that stops early waits for the others. No state can be resumed from: none holds the optimiser's. Raises what
    `fit` and `StackedTraining` raise.
    """
    running = [
        fitting(
            one.model,
            one.train,
            one.validation,
            config.model_copy(update={"seed": one.seed}),
            scans=one.scans,
            on_epoch=one.on_epoch,
        )
        for one in fits
    ]
    # The first thing that a fit does is to set the means, and to pretrain.
    epochs: list[int | None] = [next(one).epoch for one in running]
    training = StackedTraining(
        [one.model for one in fits], [one.train for one in fits], config, [one.seed for one in fits]
    )
    states: dict[int, FitState] = {}
    while len(states) < len(fits):
        (epoch,) = {epoch for epoch in epochs if epoch is not None}
        records = training.train_epoch(epoch, [own is not None for own in epochs])
        for number, own in enumerate(running):
            if epochs[number] is None:
                continue
            training.stack.write(number)
            try:
                epochs[number] = own.send(TrainedEpoch(records[number])).epoch
            except StopIteration as end:
                epochs[number], states[number] = None, end.value
    return [states[number] for number in range(len(fits))]
