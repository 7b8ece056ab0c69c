"""The optimiser of every training that the outcome guides, and its state as named tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from permmoe.config import TrainConfig
from permmoe.model import PerMMoE


def make_optimiser(model: PerMMoE, config: TrainConfig) -> torch.optim.Optimizer:
    """The configuration's optimiser over all parameters; weight decay spares biases, norms and single vectors."""
    decayed = [p for p in model.parameters() if is_decayed(p)]
    others = [p for p in model.parameters() if not is_decayed(p)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def is_decayed(parameter: Tensor) -> bool:
    """Whether weight decay draws this parameter to zero."""
    return parameter.ndim > 1


def optimiser_tensors(optimiser: torch.optim.Optimizer, model: PerMMoE) -> dict[str, Tensor]:
    """Copies of the optimiser's moments and step counts on the CPU, named `<parameter>/<moment>`."""
    return {
        f"{name}/{key}": value.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state[parameter].items()
    }


def load_optimiser(optimiser: torch.optim.Optimizer, model: PerMMoE, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimiser_tensors` returned, on each parameter's device."""
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        parameter_name, key = name.rsplit("/", 1)
        parameter = parameters[parameter_name]
        optimiser.state[parameter][key] = value.clone().to(parameter.device)
