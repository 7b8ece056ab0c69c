"""What a model is given: observed inputs only, so that a missing volume costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Some visits. Row i of `observed` says which modalities visit i has in this batch (others may be withheld)."""

    inputs: Mapping[str, Float[Tensor, ...]]
    """For each modality, the rows of the visits that have it, in batch order: [n_observed, 1, x, y, z] for a volume
    (or what the encoder's fixed stem makes of it), [n_observed, columns] for a table. A modality that no visit has
    may be left out."""
    observed: Bool[Tensor, "batch modality"]
    """On the CPU wherever the rest is: what goes where follows from it, and nobody waits for a device to say so."""
    baseline: Float[Tensor, " batch"]
    """CDR-SB at the visit, points."""
    target: Float[Tensor, " batch"]
    """Change in CDR-SB at the horizon, points; NaN where unknown."""
    horizon: Float[Tensor, " batch"] | None = None
    """Months, for a model that is told; None for any other."""

    def to(self, device: torch.device) -> Batch:
        """The same batch with its values on a device."""
        inputs = {name: x.to(device, non_blocking=True) for name, x in self.inputs.items()}
        baseline, target = (x.to(device, non_blocking=True) for x in (self.baseline, self.target))
        horizon = None if self.horizon is None else self.horizon.to(device, non_blocking=True)
        return Batch(inputs, self.observed, baseline, target, horizon)


def observed_masks(observed: Bool[Tensor, "batch modality"]) -> Int[Tensor, " batch"]:
    """Each row's observed set as a bit mask (permmoe.modality)."""
    bits = (1 << i for i in range(observed.shape[1]))
    return (observed.long() * observed.new_tensor(list(bits), dtype=observed.long().dtype)).sum(1)
