"""Visits in memory for a small model, with values drawn from a generator."""

from __future__ import annotations

import torch
from torch import Tensor

from permmoe.config import ModelConfig
from permmoe.data.batch import Batch
from permmoe.data.dataset import ABSENT, VisitData
from permmoe.data.rows import MemoryRows
from permmoe.data.visits import Visit, VisitTable
from permmoe.layers.input_kinds import INPUT_KINDS
from tests.support.model_batches import random_pattern


def small_visits(config: ModelConfig, n: int, seed: int = 0, *, observed: Tensor | None = None) -> VisitData:
    """Invented visits whose inputs carry a little of the target; every third has no age."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        observed = random_pattern(n, len(config.modalities)) if observed is None else observed
        baseline, target = torch.rand(n) * 8, torch.randn(n) + 0.5
        stored_rows = torch.where(observed, observed.long().cumsum(0) - 1, ABSENT)
        inputs = {}
        for column, modality in enumerate(config.modalities):
            signal = target[observed[:, column]]
            shape = INPUT_KINDS[modality.kind].shape(modality, config)
            rows = 1.0 + column + torch.randn(len(signal), *shape)
            inputs[modality.name] = MemoryRows(rows + signal.view(-1, *[1] * len(shape)))
        ages = [None if i % 3 == 2 else 60.0 + (7 * i) % 31 for i in range(n)]
    visits = tuple(
        Visit(f"s{seed}-{i}", "011", "bl", baseline[i].item(), target[i].item(), 24.0, age_years=ages[i])
        for i in range(n)
    )
    return VisitData(VisitTable(visits), config.names, observed, baseline, target, stored_rows, inputs)


def alone(data: VisitData, row: int, combination: tuple[str, ...]) -> Batch:
    """One visit with exactly these modalities, gathered row by row: the slow and obvious way."""
    inputs = {name: data.inputs[name].read(data.stored_rows[[row], data.names.index(name)]) for name in combination}
    observed = torch.tensor([[name in combination for name in data.names]])
    return Batch(inputs, observed, data.baseline[[row]], data.target[[row]])
