"""Passes of a stack of models (permmoe.training.stack) over their visits: the training of permmoe.training.epochs.

Batches are filled up to one size, and what fills them counts nowhere; every modality is encoded and every expert sees
every token, so that no shape depends on the data and nothing waits for a device but the check that a loss is a number.
Inputs lie on the device from the start. Without randomness in the forward pass a model learns what it learns by itself,
up to rounding; with it, it draws other numbers, from the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from permmoe.config import TrainConfig
from permmoe.data.dataset import ABSENT, VisitData
from permmoe.data.rows import MemoryRows
from permmoe.layers.noise import Numbers, predrawn
from permmoe.model import Output, PerMMoE
from permmoe.runtime.devices import device_of, seeded
from permmoe.training.dense_pass import DensePerMMoE, Inputs
from permmoe.training.epochs import epoch_order, modality_dropout
from permmoe.training.exposure import TrainingRecord, exposure_of
from permmoe.training.hardware import autocast, keep_memory_of_steps, repeatable
from permmoe.training.losses import masked_total_loss
from permmoe.training.seeds import derive_seed
from permmoe.training.stack import Stack

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
        self._inputs = [_Resident(data, column, self.device) for column in range(len(data[0].names))]
        most = max(len(own) for own in data)
        self._baseline = _padded([own.baseline for own in data], most + 1).to(self.device)
        self._target = _padded([own.target for own in data], most + 1).to(self.device)
        self._size = min(config.batch_size, most)
        self._dense = DensePerMMoE(self.model)
        self._numbers = self._count_numbers()

    def train_epoch(self, epoch: int, going: Sequence[bool] | None = None) -> list[TrainingRecord]:
        """One pass of every model that is `going`, by default all; the others stay as they are, and their records are
        of no visit. Raises FloatingPointError where a loss or a gradient is no number, before the step it would spoil.
        """
        going = going or [True] * len(self.stack)
        order, observed = self._schedule(epoch, going)
        draws = [
            torch.Generator(self.device).manual_seed(derive_seed(seed, "stacked noise", epoch)) for seed in self.seeds
        ]
        tally = _Tally(self.stack, self.data, self.device)
        self.model.train()
        keep_memory_of_steps(self.model)
        with repeatable(self.config):
            for rows, seen in zip(order.unbind(1), observed.unbind(1), strict=True):
                is_visit = rows != FILLER
                losses, gates = self._losses(rows, seen, is_visit, draws)
                gradients = self.stack.gradients(losses.sum())
                self._require_finite(losses, gradients, epoch)
                self.stack.step(gradients, {name: seen[:, :, j].any(1) for j, name in enumerate(self.data[0].names)})
                tally.add(rows, seen, is_visit, gates, losses.detach())
        return tally.records()

    def _schedule(
        self, epoch: int, going: Sequence[bool]
    ) -> tuple[Int[Tensor, "model step place"], Bool[Tensor, "model step place modality"]]:
        """What permmoe.training.epochs draws for each model: the order of its visits, and what is left of them."""
        by_size = self.config.warmup_order if epoch < self.config.warmup_epochs else None
        n_steps = max(-(-len(own) // self._size) for own in self.data)
        order = torch.full((len(self.data), n_steps * self._size), FILLER)
        left = torch.zeros(len(self.data), n_steps * self._size, len(self.data[0].names), dtype=torch.bool)
        for number, (own, seed) in enumerate(zip(self.data, self.seeds, strict=True)):
            if not going[number]:
                continue
            generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", epoch))
            rows = epoch_order(own.observed, generator, by_size)
            withheld = modality_dropout(own.observed, self.config.modality_dropout, generator)
            order[number, : len(rows)] = rows
            left[number, : len(rows)] = (own.observed & ~withheld)[rows]
        return order.view(len(self.data), n_steps, -1), left.view(len(self.data), n_steps, self._size, -1)

    def _losses(
        self,
        rows: Int[Tensor, "model place"],
        observed: Bool[Tensor, "model place modality"],
        is_visit: Bool[Tensor, "model place"],
        draws: Sequence[torch.Generator],
    ) -> tuple[Float[Tensor, " model"], Float[Tensor, "model place modality token expert"]]:
        """Each model's loss, and the gates of its tokens."""
        inputs = tuple(own.at(rows, observed[:, :, j]) for j, own in enumerate(self._inputs))
        number = torch.arange(len(self.stack)).unsqueeze(1)
        # A row behind a model's last holds a baseline for what fills its batch.
        place = number * self._baseline.shape[1] + torch.where(is_visit, rows, self._baseline.shape[1] - 1)
        place = place.to(self.device, non_blocking=True)
        baseline, target = self._baseline.flatten()[place], self._target.flatten()[place]
        uniform, normal = (
            torch.stack([draw(n, generator=one, device=self.device) for one in draws])
            for draw, n in zip((torch.rand, torch.randn), self._numbers, strict=True)
        )
        seen, there = (x.to(self.device, non_blocking=True) for x in (observed, is_visit))
        with autocast(self.model, self.config), _unfused():
            return vmap(self._loss)(
                {**self.stack.parameters, **self.stack.fixed}, inputs, seen, there, baseline, target, uniform, normal
            )

    def _loss(
        self,
        parameters: dict[str, Tensor],
        inputs: Inputs,
        observed: Bool[Tensor, "place modality"],
        is_visit: Bool[Tensor, " place"],
        baseline: Float[Tensor, " place"],
        target: Float[Tensor, " place"],
        uniform: Float[Tensor, " _"],
        normal: Float[Tensor, " _"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "place modality token expert"]]:
        """One model's loss, as vmap sees it."""
        with predrawn(Numbers(uniform, normal)):
            output: Output = functional_call(
                self._dense,
                {f"model.{name}": value for name, value in parameters.items()},
                (inputs, observed, baseline),
            )
        loss = masked_total_loss(output, target, is_visit, self.config, self.model.config.spread)
        return loss, output.routing.gates.detach()

    @torch.no_grad()
    def _count_numbers(self) -> tuple[int, int]:
        """How many uniform and normal numbers a pass takes."""
        self.model.train()
        inputs = tuple(own.nothing(self._size) for own in self._inputs)
        observed = torch.ones(self._size, len(inputs), dtype=torch.bool, device=self.device)
        with seeded(0, self.device), _unfused(), predrawn(Numbers()) as numbers:
            self._dense(inputs, observed, self._baseline.new_zeros(self._size))
        return numbers.n_uniform, numbers.n_normal

    def _require_finite(
        self, losses: Float[Tensor, " model"], gradients: Float[Tensor, "model parameter"], epoch: int
    ) -> None:
        is_finite = torch.stack([losses.isfinite(), gradients.sum(1).isfinite()]).cpu()
        for name, own in zip(("training loss", "gradient"), is_finite, strict=True):
            if not bool(own.all()):
                raise FloatingPointError(
                    f"the {name} of model {int((~own).nonzero()[0])} is no number in epoch {epoch}"
                )


def why_not_stacked(model: PerMMoE, data: Sequence[VisitData], config: TrainConfig) -> str:
    """Why such a training has to be done model by model; empty where it can be stacked."""
    if model.config.encoder.declaration.reads == "voxels" and any(m.kind == "volume" for m in model.config.modalities):
        return "models are stacked whose steps are short; an encoder that reads voxels fills a device by itself"
    if config.micro_batch or config.checkpoint_encoders:
        return "micro_batch and checkpoint_encoders save memory, which a stack multiplies"
    if not all(isinstance(rows, MemoryRows) for own in data for rows in own.inputs.values()):
        return "a stack's inputs have to fit into memory"
    return ""


class _Resident:
    """One modality's inputs of all models on the device, with zeros behind them for who lacks it."""

    def __init__(self, data: Sequence[VisitData], column: int, device: torch.device) -> None:
        name = data[0].names[column]
        tables = [own.inputs[name] for own in data]
        different: dict[int, Tensor] = {id(table): table.rows for table in tables if isinstance(table, MemoryRows)}
        start, starts = 0, {}
        for key, rows in different.items():
            starts[key], start = start, start + len(rows)
        shape = next((rows.shape[1:] for rows in different.values() if len(rows)), torch.Size([1]))
        filled = [rows.float() for rows in different.values() if len(rows)]
        self.rows = torch.cat([*filled, torch.zeros(1, *shape)]).to(device)
        most = max(len(own) for own in data)
        place = torch.full((len(data), most), start)
        for number, own in enumerate(data):
            stored = own.stored_rows[:, column]
            place[number, : len(own)] = torch.where(stored == ABSENT, start, stored + starts[id(own.inputs[name])])
        self.place, self.zeros = place, start

    def at(
        self, rows: Int[Tensor, "model place"], is_there: Bool[Tensor, "model place"]
    ) -> Float[Tensor, "model place ..."]:
        """The inputs of these visits of each model; zeros where it is not there."""
        stored = torch.where(is_there, self.place.gather(1, rows.clamp(min=0)), self.zeros)
        return self.rows[stored.to(self.rows.device, non_blocking=True)]

    def nothing(self, size: int) -> Float[Tensor, "place ..."]:
        """Zeros for so many visits."""
        return self.rows[-1:].expand(size, *self.rows.shape[1:])


class _Tally:
    """What each model of a stack saw in an epoch."""

    def __init__(self, stack: Stack, data: Sequence[VisitData], device: torch.device) -> None:
        self.data, self.n_experts = data, stack.models[0].config.experts
        most = max(len(own) for own in data)
        self.mass = torch.zeros(len(data), self.n_experts, dtype=torch.float64, device=device)
        self.loss = torch.zeros(len(data), dtype=torch.float64, device=device)
        self.sent = torch.zeros(len(data), most + 1, self.n_experts, dtype=torch.bool, device=device)
        self.left = torch.zeros(len(data), most, len(data[0].names), dtype=torch.bool)
        self.came = torch.zeros(len(data), most, dtype=torch.bool)

    def add(
        self,
        rows: Int[Tensor, "model place"],
        observed: Bool[Tensor, "model place modality"],
        is_visit: Bool[Tensor, "model place"],
        gates: Float[Tensor, "model place modality token expert"],
        losses: Float[Tensor, " model"],
    ) -> None:
        """Count a step."""
        number = torch.arange(len(rows)).unsqueeze(1)
        last = self.came.shape[1]
        for own, seen, there, left, came in zip(rows, observed, is_visit, self.left, self.came, strict=True):
            left[own[there]] = seen[there]
            came[own[there]] = True
        there = is_visit.to(gates.device, non_blocking=True)
        gates = gates * there[:, :, None, None, None]
        self.mass += gates.double().sum((1, 2, 3)) / (gates.shape[2] * gates.shape[3])
        place = torch.where(is_visit, rows, last)
        self.sent[number.to(gates.device), place.to(gates.device)] = (gates > 0).any(3).any(2)
        self.loss += losses.double() * there.sum(1)

    def records(self) -> list[TrainingRecord]:
        """One for each model."""
        mass, loss, sent = self.mass.float().cpu(), self.loss.tolist(), self.sent.sum(1).float().cpu()
        records = []
        for number, own in enumerate(self.data):
            n = int(self.came[number].sum())
            left = self.left[number][self.came[number]]
            exposure = exposure_of(own.names, left, mass[number])
            records.append(TrainingRecord(exposure, loss[number], n, exposure_of(own.names, left, sent[number])))
        return records


def _padded(values: Sequence[Float[Tensor, " _"]], length: int) -> Float[Tensor, "model length"]:
    """Rows of one length, filled up with zeros."""
    return torch.stack([torch.cat([own, own.new_zeros(length - len(own))]) for own in values])


@contextmanager
def _unfused() -> Iterator[None]:
    """The fused kernels of attention have no batching rule: vmap would call them model by model."""
    with sdpa_kernel(SDPBackend.MATH):
        yield
