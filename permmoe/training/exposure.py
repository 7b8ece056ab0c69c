"""How much training each module of a model saw: what a federation weights the modules of its sites by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Float64, Int
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
    scanned: Mapping[str, float] = field(default_factory=dict)
    """For each modality, visits whose moments tell how sites' scanners differ; empty but in the harmonising round."""
    clustered: Float64[Tensor, " centre"] | None = None
    """For each centre of the model's clusters, visits that it is a mean over; None of a model without clusters."""


@dataclass(frozen=True)
class TrainingRecord:
    """What some epochs of training did, or the setting of the means."""

    exposure: Exposure
    loss_sum: float
    """Total loss (squared points, auxiliary losses included) summed over the visits of the last epoch."""
    visits: int
    behind: Exposure
    """The same parts by how many different visits each one saw, in all epochs together: how many are behind it."""


def with_clusters(record: TrainingRecord, visits: Float64[Tensor, " centre"]) -> TrainingRecord:
    """The record of a training that set the centres of clusters in the end, each from so many different visits."""
    exposure, behind = (replace(own, clustered=visits) for own in (record.exposure, record.behind))
    return replace(record, exposure=exposure, behind=behind)


def exposure_of(
    names: Sequence[str], observed: Bool[Tensor, "visit modality"], expert_mass: Float[Tensor, " expert"]
) -> Exposure:
    """The exposure of one pass over visits. `observed`: what modality dropout left of each."""
    seen = {name: float(n) for name, n in zip(names, observed.sum(0).tolist(), strict=True)}
    imputed = {name: len(observed) - n for name, n in seen.items()}
    patterns = {mask: float(n) for mask, n in enumerate(torch.bincount(observed_masks(observed)).tolist()) if n}
    return Exposure(float(len(observed)), seen, imputed, patterns, expert_mass)


class Tally:
    """Counts exposure batch by batch: observed sets on the CPU, gate mass on the model's device."""

    def __init__(self, names: Sequence[str], n_visits: int, model: PerMMoE) -> None:
        self.names = names
        n_sets, n_experts, device = 1 << len(names), model.config.experts, device_of(model)
        self.masks = torch.zeros(n_sets, dtype=torch.float64)
        self.mass = torch.zeros(n_experts, dtype=torch.float64, device=device)
        self.had = torch.zeros(n_visits, n_sets, dtype=torch.bool)
        """Whether a visit had an observed set in some epoch."""
        self.sent = torch.zeros(n_visits, n_experts, dtype=torch.bool, device=device)
        """Whether a token of a visit went to an expert in some epoch."""

    def add(
        self,
        rows: Int[Tensor, " batch"],
        observed: Bool[Tensor, "batch modality"],
        gates: Float[Tensor, "batch modality token expert"],
    ) -> None:
        """Count the visits of a batch; `rows` are their numbers among all visits."""
        masks = observed_masks(observed)
        self.masks += torch.bincount(masks, minlength=len(self.masks))
        self.mass += gates.detach().double().sum((0, 1, 2)) / (gates.shape[1] * gates.shape[2])
        self.had[rows, masks] = True
        self.sent[rows.to(self.sent.device)] |= (gates.detach() > 0).any(2).any(1)

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all counts on the CPU, by name."""
        counts = {"masks": self.masks, "mass": self.mass, "had": self.had, "sent": self.sent}
        return {name: count.cpu().clone() for name, count in counts.items()}

    def put_back(self, counts: Mapping[str, Tensor]) -> None:
        """Go on from such counts."""
        for name, count in counts.items():
            getattr(self, name).copy_(count)

    def exposure(self, epochs: int) -> Exposure:
        """The mean over the epochs that were counted."""
        visits = {mask: float(n) / epochs for mask, n in enumerate(self.masks.tolist()) if n}
        seen = {name: sum((n for mask, n in visits.items() if mask >> j & 1), 0.0) for j, name in enumerate(self.names)}
        total = sum(visits.values())
        imputed = {name: total - n for name, n in seen.items()}
        return Exposure(total, seen, imputed, visits, (self.mass / epochs).float().cpu())

    def behind(self) -> Exposure:
        """How many different visits each part saw."""
        sets = torch.arange(self.had.shape[1])

        def having(chosen: Bool[Tensor, " set"]) -> float:
            return float(self.had[:, chosen].any(1).sum())

        observed = {name: having((sets >> j & 1) == 1) for j, name in enumerate(self.names)}
        imputed = {name: having((sets >> j & 1) == 0) for j, name in enumerate(self.names)}
        patterns = {mask: float(n) for mask, n in enumerate(self.had.sum(0).tolist()) if n}
        return Exposure(having(sets >= 0), observed, imputed, patterns, self.sent.sum(0).float().cpu())
