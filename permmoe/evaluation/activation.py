"""Which experts a model sends its tokens to: what routers and experts have specialised in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from permmoe.data.dataset import VisitData
from permmoe.evaluation.combinations import combination_outputs
from permmoe.modality import all_combinations
from permmoe.model import PerMMoE

Array = np.ndarray


@dataclass(frozen=True)
class Activation:
    """How the tokens are distributed over the experts (the paper's Figure 3)."""

    share: Float[Array, "combination modality expert"]
    """Share of a modality's top-k places that each expert receives; NaN for combinations without a visit."""
    load_cv: float
    """Coefficient of variation of the experts' total load."""
    collapsed_experts: int
    """Experts with under 1% of the load."""


def expert_activation(model: PerMMoE, data: VisitData) -> Activation:
    """The activation over every combination's tokens, imputed ones included."""
    combinations = all_combinations(data.names)
    n_experts = model.config.experts
    placed = np.zeros((len(combinations), len(data.names), n_experts))
    for _, columns, output in combination_outputs(model, data):
        np.add.at(placed, columns, (output.routing.gates > 0).double().sum(2).cpu().numpy())
    places = placed.sum(2, keepdims=True)
    share = np.divide(placed, places, out=np.full_like(placed, np.nan), where=places > 0)
    load = placed.sum((0, 1))
    if not load.sum():
        return Activation(share, float("nan"), 0)
    return Activation(share, float(load.std() / load.mean()), int((load < 0.01 * load.sum()).sum()))
