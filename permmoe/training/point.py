"""Where a training stands between two of its steps, so that a killed process goes on from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from permmoe.model import PerMMoE
from permmoe.training.optimiser import load_optimiser, optimiser_tensors

WEIGHTS, OPTIMISER, TALLY, RANDOM = "weights", "optimiser", "tally", "random"
"""The groups of a point's tensors."""
Groups = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class TrainingPoint:
    """All that a training needs to go on behind a step."""

    epoch: int
    """As the training numbers its epochs."""
    step: int
    """Steps of this epoch that are done."""
    loss_sum: float
    """Of the epoch so far, as in `TrainingRecord`."""
    visits_at_once: int
    """Visits that were computed at a time: with another number the next steps have other random numbers."""
    tensors: Groups
    """Copies on the CPU, by group and name."""


@runtime_checkable
class PointKeeper(Protocol):
    """Whom a training offers the points behind its steps."""

    def is_due(self) -> bool:
        """Whether a point should be kept now: asked behind every step."""

    def keep(self, point: TrainingPoint) -> None:
        """Keep a point in place of the one before."""


def model_groups(model: PerMMoE, optimiser: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """The weights and the optimiser's state."""
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    return {WEIGHTS: weights, OPTIMISER: optimiser_tensors(optimiser, model)}


def put_back(point: TrainingPoint, model: PerMMoE, optimiser: torch.optim.Optimizer) -> None:
    """Give the model and a fresh optimiser what they had behind the point's step."""
    model.load_state_dict(dict(point.tensors[WEIGHTS]))
    load_optimiser(optimiser, model, point.tensors[OPTIMISER])


def random_numbers(device: torch.device) -> dict[str, Tensor]:
    """The state of PyTorch's generators on the CPU and on the device."""
    found = {"cpu": torch.get_rng_state()}
    return found | ({"device": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def draw_on(numbers: Mapping[str, Tensor], device: torch.device) -> None:
    """Let the generators go on from such a state."""
    torch.set_rng_state(numbers["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(numbers["device"], device)
