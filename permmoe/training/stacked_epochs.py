"""Passes of a stack of models (permmoe.training.stack) over their visits: the training of permmoe.training.epochs.

Batches are filled up to one size, and what fills them counts nowhere. Of each modality the observed inputs are encoded,
and on a CPU each token goes to its k experts; on a GPU every expert sees every token, and nothing waits for the device
but the check that a loss is a number. Inputs lie there from the start. Without randomness in the forward pass a model
learns what it learns by itself, up to rounding; with it, it draws other numbers, from the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from permmoe.config import TrainConfig
from permmoe.data.dataset import VisitData
from permmoe.data.rows import MemoryRows
from permmoe.layers.experts import are_aligned
from permmoe.layers.noise import Numbers, predrawn
from permmoe.model import Output, PerMMoE
from permmoe.runtime.devices import device_of
from permmoe.training.dense_pass import DensePerMMoE, Inputs, dense_experts
from permmoe.training.epochs import epoch_order, modality_dropout
from permmoe.training.exposure import TrainingRecord, exposure_of
from permmoe.training.hardware import autocast, keep_memory_of_steps, repeatable
from permmoe.training.losses import masked_total_loss
from permmoe.training.seeds import derive_seed
from permmoe.training.stack import Gradients, Stack
from permmoe.training.stacked_experts import stacked_experts
from permmoe.training.stacked_inputs import ResidentInputs
from permmoe.training.stacked_noise import StackedNoise

FILLER = -1
"""Stands in an epoch's order where a batch has no visit."""


class StackedTraining:
    """Trains a stack, epoch by epoch: each model on visits of its own, with a seed of its own."""

    def __init__(
        self, models: Sequence[PerMMoE], data: Sequence[VisitData], config: TrainConfig, seeds: Sequence[int]
    ) -> None:
        """Raises ValueError for models, visits or settings that cannot be stacked (`why_not_stacked`), and where a
        model has no visits."""
        if reason := why_not_stacked(models[0], data, config):
            raise ValueError(reason)
        if not all(len(own) for own in data):
            raise ValueError("no visit to train on")
        self.stack, self.data, self.config, self.seeds = Stack(models, config), tuple(data), config, tuple(seeds)
        self.model, self.device = models[0], device_of(models[0])
        self._inputs = ResidentInputs(data, self.device)
        most = max(len(own) for own in data)
        self._baseline = _padded([own.baseline for own in data], most + 1).to(self.device)
        self._target = _padded([own.target for own in data], most + 1).to(self.device)
        self._size = min(config.batch_size, most)
        is_sparse = self.device.type == "cpu" and are_aligned(self.model.experts.w1)
        self._pass = DensePerMMoE(self.model, stacked_experts if is_sparse else dense_experts)
        self._noise = StackedNoise(self.model, self._inputs.nothing(), self._size)

    def train_epoch(self, epoch: int, going: Sequence[bool] | None = None) -> list[TrainingRecord]:
        """One pass of every model that is `going`, by default all; the others stay as they are, and their records are
        of no visit. Raises FloatingPointError where a loss or a gradient is no number, before the step it would spoil.
        """
        schedules = [
            self._schedule(own, seed, epoch) if goes else None
            for own, seed, goes in zip(self.data, self.seeds, going or [True] * len(self.stack), strict=True)
        ]
        draws = [
            torch.Generator(self.device).manual_seed(derive_seed(seed, "stacked noise", epoch)) for seed in self.seeds
        ]
        tally = _Tally(self.stack, self.data, self.device)
        self.model.train()
        keep_memory_of_steps(self.model, is_stacked=True)
        with repeatable(self.config):
            for start in range(0, max((len(own.order) for own in schedules if own), default=0), self._size):
                batch = self._batch(schedules, slice(start, start + self._size))
                leaves = self.stack.leaves(batch.models)
                losses, gates = self._losses(batch, leaves, [draws[number] for number in batch.models])
                gradients = self.stack.gradients(losses.sum(), leaves)
                _require_finite(losses, gradients, batch, epoch)
                seen = dict(zip(self.data[0].names, batch.observed.any(1).unbind(1), strict=True))
                self.stack.step(gradients, batch.models, seen)
                tally.add(batch, gates, losses.detach())
        return tally.records(schedules)

    def _schedule(self, own: VisitData, seed: int, epoch: int) -> _Schedule:
        """What permmoe.training.epochs draws for a model."""
        by_size = self.config.warmup_order if epoch < self.config.warmup_epochs else None
        generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", epoch))
        order = epoch_order(own.observed, generator, by_size)
        return _Schedule(order, own.observed & ~modality_dropout(own.observed, self.config.modality_dropout, generator))

    def _batch(self, schedules: Sequence[_Schedule | None], places: slice) -> _Batch:
        """The visits at these places of each model's order, of the models that have any."""
        having = {n: own for n, own in enumerate(schedules) if own and len(own.order) > places.start}
        rows = torch.full((len(having), self._size), FILLER)
        observed = torch.zeros(len(having), self._size, len(self.data[0].names), dtype=torch.bool)
        for at, own in enumerate(having.values()):
            visits = own.order[places]
            rows[at, : len(visits)], observed[at, : len(visits)] = visits, own.left[visits]
        return _Batch(list(having), rows, observed, rows != FILLER)

    def _losses(
        self, batch: _Batch, leaves: Mapping[str, Tensor], draws: Sequence[torch.Generator]
    ) -> tuple[Float[Tensor, " model"], Float[Tensor, "model place modality token expert"]]:
        """Each model's loss, and the gates of its tokens."""
        models = torch.tensor(batch.models)
        packed = self._inputs.pack(models, batch.rows, batch.observed)
        # A row behind a model's last holds a baseline for what fills its batch.
        last = self._baseline.shape[1] - 1
        place = models.unsqueeze(1) * (last + 1) + torch.where(batch.is_visit, batch.rows, last)
        place = place.to(self.device, non_blocking=True)
        baseline, target = self._baseline.flatten()[place], self._target.flatten()[place]
        uniform, normal = self._noise.draw(draws, packed.counts)
        rows, seen, there = (
            x.to(self.device, non_blocking=True) for x in (packed.rows, batch.observed, batch.is_visit)
        )
        parameters = {**leaves, **self.stack.fixed(batch.models)}
        with autocast(self.model, self.config), _unfused():
            return vmap(self._loss)(parameters, packed.inputs, rows, seen, there, baseline, target, uniform, normal)

    def _loss(
        self,
        parameters: dict[str, Tensor],
        inputs: Inputs,
        rows: Int[Tensor, "place modality"],
        observed: Bool[Tensor, "place modality"],
        is_visit: Bool[Tensor, " place"],
        baseline: Float[Tensor, " place"],
        target: Float[Tensor, " place"],
        uniform: list[Tensor],
        normal: list[Tensor],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "place modality token expert"]]:
        """One model's loss, as vmap sees it."""
        with predrawn(Numbers(uniform, normal)):
            output: Output = functional_call(
                self._pass,
                {f"model.{name}": value for name, value in parameters.items()},
                (inputs, observed, baseline, rows),
            )
        loss = masked_total_loss(output, target, is_visit, self.config, self.model.config.spread)
        return loss, output.routing.gates.detach()


@dataclass(frozen=True)
class _Schedule:
    """An epoch of one model."""

    order: Int[Tensor, " visit"]
    left: Bool[Tensor, "visit modality"]
    """What modality dropout leaves of each visit."""


@dataclass(frozen=True)
class _Batch:
    """A step's visits of the models that have any, filled up to one size."""

    models: list[int]
    rows: Int[Tensor, "model place"]
    """Numbers among the model's visits, or FILLER."""
    observed: Bool[Tensor, "model place modality"]
    is_visit: Bool[Tensor, "model place"]


def _require_finite(losses: Float[Tensor, " model"], gradients: Gradients, batch: _Batch, epoch: int) -> None:
    is_finite = torch.stack([losses.isfinite(), gradients.norms.isfinite()]).cpu()
    for name, own in zip(("training loss", "gradient"), is_finite, strict=True):
        if not bool(own.all()):
            number = batch.models[int((~own).nonzero()[0])]
            raise FloatingPointError(f"the {name} of model {number} is no number in epoch {epoch}")


def why_not_stacked(model: PerMMoE, data: Sequence[VisitData], config: TrainConfig) -> str:
    """Why such a training has to be done model by model; empty where it can be stacked."""
    if model.config.encoder.declaration.reads == "voxels" and any(m.kind == "volume" for m in model.config.modalities):
        return "models are stacked whose steps are short; an encoder that reads voxels fills a device by itself"
    if model.translator is not None:
        return "the dense pass of a stack has no translation of missing modalities"
    if model.config.horizons_months:
        return "the dense pass of a stack is told no horizon"
    if model.clusters is not None:
        return "the dense pass of a stack has no clusters, whose centres are set behind each epoch"
    if config.frozen_encoders:
        return "a stack moves all weights of its models, and frozen_encoders keeps some of them still"
    if config.optimiser != "adamw":
        return f"a stack's steps are AdamW's, and the optimiser is {config.optimiser}"
    if config.micro_batch or config.checkpoint_encoders:
        return "micro_batch and checkpoint_encoders save memory, which a stack multiplies"
    if not all(isinstance(rows, MemoryRows) for own in data for rows in own.inputs.values()):
        return "a stack's inputs have to fit into memory"
    return ""


class _Tally:
    """What each model of a stack saw in an epoch."""

    def __init__(self, stack: Stack, data: Sequence[VisitData], device: torch.device) -> None:
        self.data, n_experts = data, stack.models[0].config.experts
        self.mass = torch.zeros(len(data), n_experts, dtype=torch.float64, device=device)
        self.loss = torch.zeros(len(data), dtype=torch.float64, device=device)
        self.sent = torch.zeros(len(data), n_experts, dtype=torch.int64, device=device)

    def add(
        self,
        batch: _Batch,
        gates: Float[Tensor, "model place modality token expert"],
        losses: Float[Tensor, " model"],
    ) -> None:
        """Count a step; in an epoch every visit comes once."""
        models = torch.tensor(batch.models).to(gates.device, non_blocking=True)
        there = batch.is_visit.to(gates.device, non_blocking=True)
        gates = gates * there[:, :, None, None, None]
        self.mass.index_add_(0, models, gates.double().sum((1, 2, 3)) / (gates.shape[2] * gates.shape[3]))
        self.sent.index_add_(0, models, (gates > 0).any(3).any(2).sum(1))
        self.loss.index_add_(0, models, losses.double() * there.sum(1))

    def records(self, schedules: Sequence[_Schedule | None]) -> list[TrainingRecord]:
        """One for each model."""
        mass, loss, sent = self.mass.float().cpu(), self.loss.tolist(), self.sent.float().cpu()
        records = []
        for number, (data, own) in enumerate(zip(self.data, schedules, strict=True)):
            left = own.left if own else data.observed[:0]
            exposure, behind = (exposure_of(data.names, left, x[number]) for x in (mass, sent))
            records.append(TrainingRecord(exposure, loss[number], len(left), behind))
        return records


def _padded(values: Sequence[Float[Tensor, " _"]], length: int) -> Float[Tensor, "model length"]:
    """Rows of one length, filled up with zeros."""
    return torch.stack([torch.cat([own, own.new_zeros(length - len(own))]) for own in values])


@contextmanager
def _unfused() -> Iterator[None]:
    """The fused kernels of attention have no batching rule: vmap would call them model by model."""
    with sdpa_kernel(SDPBackend.MATH):
        yield
