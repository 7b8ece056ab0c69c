"""Small models in unequal prime dimensions, and random batches for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from permmoe.config import EncoderConfig, ModelConfig
from permmoe.data.batch import Batch
from permmoe.layers.input_kinds import INPUT_KINDS
from permmoe.modality import Modality


def small_config(n_volumes: int = 3, n_tables: int = 0, **changes: Any) -> ModelConfig:
    """T = 5, d = 7, E = 11, k = 2, h = 13, on a pooled grid of 2 × 3 × 5 cells; no dropout."""
    volumes = [Modality(name=f"volume{i}") for i in range(n_volumes)]
    tables = [Modality(name=f"table{i}", kind="tabular", columns=("a", "b", "c")[: 1 + i % 3]) for i in range(n_tables)]
    settings: dict[str, Any] = {
        "modalities": (*volumes, *tables),
        "encoder": EncoderConfig(cells=(2, 3, 5), dropout=0.0, tabular_width=17),
        "tokens": 5, "width": 7, "heads": 1, "experts": 11, "top_k": 2, "expert_hidden": 13, "head_hidden": 19,
        "dropout": 0.0,
    }  # fmt: skip
    return ModelConfig(**(settings | changes))


def random_batch(config: ModelConfig, observed: Tensor) -> Batch:
    """Random inputs after the fixed stem, for the given [visit, modality] pattern."""
    inputs = {}
    for modality, n in zip(config.modalities, observed.sum(0).tolist(), strict=True):
        if n:
            shape = INPUT_KINDS[modality.kind].shape(modality, config)
            inputs[modality.name] = torch.randn(n, *shape)
    return Batch(inputs, observed, torch.rand(len(observed)) * 5, torch.randn(len(observed)))


def random_pattern(n_visits: int, n_modalities: int) -> Tensor:
    """About half of the modalities of each visit, never none."""
    observed = torch.rand(n_visits, n_modalities) < 0.5
    observed[torch.arange(n_visits), torch.randint(n_modalities, (n_visits,))] = True
    return observed


def rows_of(batch: Batch, names: tuple[str, ...], rows: list[int]) -> Batch:
    """Some visits of a batch in another order, row by row: the slow and obvious way."""
    inputs: dict[str, Tensor] = {}
    for j, name in enumerate(names):
        place_of = {visit: place for place, visit in enumerate(batch.observed[:, j].nonzero().flatten().tolist())}
        kept = [batch.inputs[name][place_of[row]] for row in rows if row in place_of]
        if kept:
            inputs[name] = torch.stack(kept)
    return Batch(inputs, batch.observed[rows], batch.baseline[rows], batch.target[rows])


def withhold(batch: Batch, names: tuple[str, ...], visit: int, modality: int) -> Batch:
    """The same batch without one visit's modality."""
    observed = batch.observed.clone()
    place = int(observed[:visit, modality].sum())
    observed[visit, modality] = False
    rows = batch.inputs[names[modality]]
    inputs = dict(batch.inputs) | {names[modality]: torch.cat([rows[:place], rows[place + 1 :]])}
    return Batch(inputs, observed, batch.baseline, batch.target)
