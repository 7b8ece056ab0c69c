"""Whole passes over the visits, each reproducible by itself.

Every random choice of an epoch (order, modality dropout, dropout, router noise) comes from one seed made of the run's
seed and the epoch's number, so that a run resumed after epoch e continues exactly as if it had never stopped. Between
two steps of an epoch a training goes on from a point (permmoe.training.point), to the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from permmoe.config import TrainConfig
from permmoe.data.dataset import VisitData
from permmoe.model import PerMMoE
from permmoe.runtime.devices import device_of, seeded
from permmoe.training.clustering import set_clusters
from permmoe.training.correction import NO_CORRECTION, Correction
from permmoe.training.exposure import Tally, TrainingRecord, with_clusters
from permmoe.training.freezing import frozen_encoders
from permmoe.training.hardware import autocast, keep_memory_of_steps, repeatable
from permmoe.training.losses import WHOLE, Shares, total_loss
from permmoe.training.optimiser import make_optimiser
from permmoe.training.point import (
    RANDOM,
    TALLY,
    PointKeeper,
    TrainingPoint,
    draw_on,
    model_groups,
    put_back,
    random_numbers,
)
from permmoe.training.seeds import derive_seed
from permmoe.training.within_memory import visits_of_a_step


def train_epochs(
    model: PerMMoE,
    data: VisitData,
    config: TrainConfig,
    *,
    first_epoch: int,
    epochs: int,
    seed: int,
    optimiser: torch.optim.Optimizer | None = None,
    correction: Correction = NO_CORRECTION,
    point: TrainingPoint | None = None,
    keeper: PointKeeper | None = None,
) -> TrainingRecord:
    """Train in place for some epochs, numbered from `first_epoch` (0 is the first of the whole study).

    Without `optimiser` a fresh one is made, as a federation's stateless sites do. A step adds up the gradients of its
    micro-batches, each weighted by its share of what each loss is a mean over. With a `point` of this very training
    only what lies behind it is trained, to the same bits; `keeper` is offered such points. In the end the centres of
    the model's clusters, where it has any, are set from the visits. Raises ValueError for no
    visits and FloatingPointError where the loss or its gradient stops being finite, before the step that would spread
    it.
    """
    if len(data) == 0:
        raise ValueError("no visit to train on")
    keep_memory_of_steps(model)
    optimiser = optimiser or make_optimiser(model, config)
    device = device_of(model)
    tally = Tally(data.names, len(data), model)
    # The spread is clipped by itself: what predicts must not notice it.
    predicting = [p for name, p in model.named_parameters() if not name.startswith("spread.")]
    if point:
        put_back(point, model, optimiser)
        tally.put_back(point.tensors[TALLY])
    loss_sum = 0.0
    model.train()
    for epoch in range(point.epoch if point else first_epoch, first_epoch + epochs):
        done, loss_sum = (point.step, point.loss_sum) if point and epoch == point.epoch else (0, 0.0)
        schedule = _schedule(data, config, epoch, seed)
        steps = schedule.steps[done:]
        batches = data.batches([part.rows for step in steps for part in step], schedule.withheld, schedule.at)
        with repeatable(config), seeded(derive_seed(seed, "noise", epoch), device), frozen_encoders(model, config):
            if point and done:
                draw_on(point.tensors[RANDOM], device)
            for number, step in enumerate(steps, start=done + 1):
                n_visits = sum(len(part.rows) for part in step)
                optimiser.zero_grad()
                for part in step:
                    batch = next(batches).to(device)
                    with autocast(model, config):
                        output = model(batch, recompute=config.checkpoint_encoders)
                        loss = total_loss(output, batch, config, part.shares, model.config.spread)
                    loss = correction.add_to_loss(loss, model, part.shares.visits)
                    points = _finite(loss, "training loss", epoch)
                    loss.backward()  # type: ignore[no-untyped-call]
                    loss_sum += points * n_visits
                    tally.add(part.rows, batch.observed, output.routing.gates)
                norm = torch.nn.utils.clip_grad_norm_(predicting, config.gradient_norm or inf)
                if model.spread:
                    torch.nn.utils.clip_grad_norm_(model.spread.parameters(), config.gradient_norm or inf)
                _finite(norm, "gradient's norm", epoch)
                optimiser.step()
                correction.after_step(model)
                if keeper and keeper.is_due():
                    random = {TALLY: tally.tensors(), RANDOM: random_numbers(device)}
                    tensors = {**model_groups(model, optimiser), **random}
                    keeper.keep(TrainingPoint(epoch, number, loss_sum, visits_of_a_step(config), tensors))
    record = TrainingRecord(tally.exposure(epochs), loss_sum, len(data), tally.behind())
    return with_clusters(record, set_clusters(model, model.clusters, data)) if model.clusters else record


def step_count(n_visits: int, config: TrainConfig, epochs: int) -> int:
    """The number of optimiser steps in `epochs` epochs."""
    return epochs * -(-n_visits // config.batch_size)


@dataclass(frozen=True)
class _Part:
    """The visits of a step that are computed together: the whole batch, or one micro-batch of it."""

    rows: Int[Tensor, " visit"]
    shares: Shares


@dataclass(frozen=True)
class _Schedule:
    """What is drawn for an epoch before its first step."""

    steps: list[list[_Part]]
    withheld: Bool[Tensor, "visit modality"]
    at: Int[Tensor, " visit"] | None
    """The horizon at which each visit trains in this epoch; None of a model that is told none."""


def _schedule(data: VisitData, config: TrainConfig, epoch: int, seed: int) -> _Schedule:
    observed = data.observed
    generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", epoch))
    order = epoch_order(observed, generator, config.warmup_order if epoch < config.warmup_epochs else None)
    withheld = modality_dropout(observed, config.modality_dropout, generator)
    at = None if data.horizons is None else data.horizons.drawn(generator)
    left = observed & ~withheld
    steps = []
    for rows in torch.split(order, config.batch_size):
        parts = torch.split(rows, config.micro_batch or len(rows))
        shares = [Shares.of(left[part], left[rows]) if len(parts) > 1 else WHOLE for part in parts]
        steps.append([_Part(part, share) for part, share in zip(parts, shares, strict=True)])
    return _Schedule(steps, withheld, at)


def _finite(value: Tensor, name: str, epoch: int) -> float:
    number = value.item()
    if not isfinite(number):
        raise FloatingPointError(f"the {name} became {number} in epoch {epoch}")
    return number


def epoch_order(
    observed: Bool[Tensor, "visit modality"],
    generator: torch.Generator,
    by_size: Literal["most_first", "fewest_first"] | None,
) -> Int[Tensor, " visit"]:
    """Visits in random order or, in the warm-up, by their number of modalities with ties in random order."""
    order = torch.randperm(len(observed), generator=generator)
    if by_size:
        order = order[observed[order].sum(1).argsort(descending=by_size == "most_first", stable=True)]
    return order


def modality_dropout(
    observed: Bool[Tensor, "visit modality"], rate: float, generator: torch.Generator
) -> Bool[Tensor, "visit modality"]:
    """Which observed modalities to withhold: each with chance `rate`, never all of a visit's."""
    withheld = observed & (torch.rand(observed.shape, generator=generator) < rate)
    keep_one = (observed & ~withheld).any(1, keepdim=True)
    return withheld & keep_one
