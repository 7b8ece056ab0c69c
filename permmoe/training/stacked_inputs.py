"""The inputs of a stack's visits on the device, of which a step takes those that were observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from permmoe.data.dataset import ABSENT, VisitData
from permmoe.data.rows import MemoryRows
from permmoe.training.dense_pass import Inputs


@dataclass(frozen=True)
class Packed:
    """What each model's batch observed and nothing else, but for zeros where another model observed more."""

    inputs: Inputs
    """For each modality [model, row, ...], with a row at least."""
    counts: Int[Tensor, "model modality"]
    """How many of the rows are the model's own; the first ones."""
    rows: Int[Tensor, "model place modality"]
    """Where each observed input stands among the rows of all modalities, as `DensePerMMoE.forward` wants it."""


class ResidentInputs:
    """All inputs of all models; what several models share is there once."""

    def __init__(self, data: Sequence[VisitData], device: torch.device) -> None:
        self.of_modality = [_Resident(data, column, device) for column in range(len(data[0].names))]

    def pack(
        self,
        models: Int[Tensor, " model"],
        visits: Int[Tensor, "model place"],
        observed: Bool[Tensor, "model place modality"],
    ) -> Packed:
        """The observed inputs of these visits of these models; at other places a visit may be any number."""
        counts = observed.sum(1)
        most = counts.amax(0).clamp(min=1)
        rows = observed.cumsum(1) - 1 + (most.cumsum(0) - most)
        # In each column the places with an input come first, in their order.
        places = observed.byte().argsort(dim=1, descending=True, stable=True)
        inputs = []
        for column, (resident, n) in enumerate(zip(self.of_modality, most.tolist(), strict=True)):
            first = places[:, :n, column]
            inputs.append(resident.at(models, visits.gather(1, first), observed[:, :, column].gather(1, first)))
        return Packed(tuple(inputs), counts, rows)

    def nothing(self) -> Inputs:
        """A row of zeros for each modality."""
        return tuple(resident.rows[-1:] for resident in self.of_modality)


class _Resident:
    """One modality's inputs of all models, with zeros behind them for who lacks it."""

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
        self, models: Int[Tensor, " model"], visits: Int[Tensor, "model row"], is_there: Bool[Tensor, "model row"]
    ) -> Float[Tensor, "model row ..."]:
        """The inputs of these visits of each model; zeros where it is not there."""
        stored = torch.where(is_there, self.place[models].gather(1, visits.clamp(min=0)), self.zeros)
        return self.rows[stored.to(self.rows.device, non_blocking=True)]
