"""How much training each module of a model saw: what a federation weights the modules of its sites by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from permmoe.data.batch import observed_masks
from permmoe.model import PerMMoE
from permmoe.runtime.devices import device_of


@dataclass(frozen=True)
class Exposure:
    """What a training saw, in visits an epoch. Modality dropout counts as it happened."""

    visits: float
    observed: Mapping[str, float]
    """For each modality, visits in which it was observed."""
    imputed: Mapping[str, float]
    """For each modality, visits in which the missing bank stood in for it."""
    patterns: Mapping[int, float]
    """For each observed set (a bit mask), visits with exactly that set."""
    expert_mass: Float[Tensor, " expert"]
    """Gate mass that each expert received, in visits: the tokens of one visit share a mass of 1."""
    measured: Mapping[int, float] = field(default_factory=dict)
    """For each observed set, visits whose moments the ridge was set from; empty where only gradients were followed."""


@dataclass(frozen=True)
class TrainingRecord:
    """What some epochs of training did, or the setting of the means."""

    exposure: Exposure
    loss_sum: float
    """Total loss (squared points, auxiliary losses included) summed over the visits of the last epoch."""
    visits: int


class Tally:
    """Counts exposure batch by batch: observed sets on the CPU, gate mass on the model's device."""

    def __init__(self, names: Sequence[str], model: PerMMoE) -> None:
        self.names = names
        self.masks = torch.zeros(1 << len(names), dtype=torch.float64)
        self.mass = torch.zeros(model.config.experts, dtype=torch.float64, device=device_of(model))

    def add(
        self,
        observed: Bool[Tensor, "batch modality"],
        gates: Float[Tensor, "batch modality token expert"],
    ) -> None:
        """Count the visits of a batch."""
        self.masks += torch.bincount(observed_masks(observed), minlength=len(self.masks))
        self.mass += gates.detach().double().sum((0, 1, 2)) / (gates.shape[1] * gates.shape[2])

    def exposure(self, epochs: int) -> Exposure:
        """The mean over the epochs that were counted."""
        visits = {mask: float(n) / epochs for mask, n in enumerate(self.masks.tolist()) if n}
        seen = {name: sum(n for mask, n in visits.items() if mask >> j & 1) for j, name in enumerate(self.names)}
        total = sum(visits.values())
        imputed = {name: total - n for name, n in seen.items()}
        return Exposure(total, seen, imputed, visits, (self.mass / epochs).float().cpu())
