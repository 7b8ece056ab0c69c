"""The server's step along the mean change, module by module (Reddi et al. 2021, arXiv 2003.00295, algorithm 2).

A module that nobody trained takes no step: its parameters and its moments both stay. Moments are plain tensors by
name, so a checkpoint holds them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float32
from torch import Tensor

from permmoe.federated.federation_config import FederationConfig

Moments = Mapping[str, Tensor]
"""`first` for FedAvgM; `first` and `second` for FedAdam; nothing for FedAvg and before the first step."""

ADAM_SECOND_DECAY = 0.99
"""β2 of FedAdam, as in the paper's experiments."""
ADAM_ADAPTIVITY = 1e-3
"""τ of FedAdam: the change, in units of the parameters, below which steps shrink with it."""


def server_step(
    config: FederationConfig, parameters: Float32[Tensor, " n"], change: Float32[Tensor, " n"], moments: Moments
) -> tuple[Float32[Tensor, " n"], Moments]:
    """Return a module's parameters and moments after a step; the arguments stay as they are.

    FedAvg: θ + ηΔ. FedAvgM (Hsu et al. 2019, arXiv 1909.06335): v ← βv + Δ, θ + ηv. FedAdam: m ← β1 m + (1 − β1)Δ,
    v ← β2 v + (1 − β2)Δ², θ + ηm/(√v + τ), without bias correction.
    """
    rate, momentum = config.server_learning_rate, config.server_momentum
    match config.server_optimiser:
        case "fedavg":
            return parameters + rate * change, {}
        case "fedavgm":
            first = change + momentum * moments["first"] if "first" in moments else change
            return parameters + rate * first, {"first": first}
        case "fedadam":
            zero = torch.zeros_like(change)
            first = momentum * moments.get("first", zero) + (1 - momentum) * change
            second = ADAM_SECOND_DECAY * moments.get("second", zero) + (1 - ADAM_SECOND_DECAY) * change.square()
            step = rate * first / (second.sqrt() + ADAM_ADAPTIVITY)
            return parameters + step, {"first": first, "second": second}
