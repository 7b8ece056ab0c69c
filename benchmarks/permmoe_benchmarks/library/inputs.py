"""Models and visits of random numbers, in memory as a run keeps them."""

from __future__ import annotations

import torch

from permmoe.config import EncoderConfig, ModelConfig, VolumeGrid
from permmoe.data.dataset import ABSENT, VisitData
from permmoe.data.rows import MemoryRows
from permmoe.data.visits import Visit, VisitTable
from permmoe.layers.encoders import fixed_stem
from permmoe_benchmarks.library.scale import PATTERNS, Scale


def model_config(scale: Scale, encoder: str) -> ModelConfig:
    """The default model on the scale's grid, with an encoder of this kind."""
    grid = VolumeGrid(shape=scale.grid, spacing_mm=scale.spacing_mm)
    return ModelConfig(grid=grid, encoder=EncoderConfig.model_validate({"kind": encoder}))


def half_missing(visits: int) -> torch.Tensor:
    """Which of four modalities each visit has: two, as PATTERNS says; a boolean for each visit and modality."""
    observed = torch.zeros(visits, 4, dtype=torch.bool)
    for visit in range(visits):
        observed[visit, list(PATTERNS[visit % len(PATTERNS)])] = True
    return observed


def half_missing_visits(config: ModelConfig, visits: int) -> VisitData:
    """Visits with half of their volumes missing: float16 voxels, or what the fixed stem makes of them."""
    torch.manual_seed(0)
    observed = half_missing(visits)
    stem = fixed_stem(config)
    inputs = {}
    for column, name in enumerate(config.names):
        inputs[name] = MemoryRows(stem(torch.randn(int(observed[:, column].sum()), 1, *config.grid.shape).half()))
    rows = torch.where(observed, observed.long().cumsum(0) - 1, ABSENT)
    return VisitData(
        visit_table(visits), config.names, observed, torch.rand(visits), torch.randn(visits), rows, inputs
    )  # fmt: skip


def complete_visits(config: ModelConfig, visits: int) -> VisitData:
    """Visits with every modality, their rows drawn as the fixed stem would leave them."""
    torch.manual_seed(0)
    like = fixed_stem(config)(torch.zeros(1, 1, *config.grid.shape).half())
    inputs = {name: MemoryRows(torch.randn(visits, *like.shape[1:]).to(like.dtype)) for name in config.names}
    rows = torch.arange(visits)[:, None].expand(-1, len(config.names)).contiguous()
    observed = torch.ones(visits, len(config.names), dtype=torch.bool)
    return VisitData(
        visit_table(visits), config.names, observed, torch.rand(visits), torch.randn(visits), rows, inputs
    )  # fmt: skip


def visit_table(visits: int) -> VisitTable:
    """Visits of as many subjects, alike in all but their names."""
    return VisitTable(tuple(Visit(f"s{i}", "011", "bl", 1.5, 1.0, 24.0) for i in range(visits)))
