"""The weights that Flex-MoE's public code starts from: PyTorch's for layers, FastMoE's for experts and routers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from permmoe.layers.encoders import TokenEncoder
from permmoe.layers.experts import Experts
from permmoe.layers.routers import Routers


@torch.no_grad()
def initialise_as_flex_moe(model: nn.Module) -> None:
    """Draw the weights of encoders' maps, experts and routers anew; all other layers start as PyTorch's already do.

    FastMoE's rule for a linear map takes the second dimension of its stacked tensors and all behind it for inputs: for
    experts, inputs times outputs, so that they start at nearly nothing; for routers, the number of experts. The weights
    of the routers' noise are drawn too, where ours start at zero.
    """
    for module in model.modules():
        if isinstance(module, TokenEncoder):
            module.project.reset_parameters()
        elif isinstance(module, Experts):
            n_weights = module.w1.shape[1] * module.w1.shape[2]
            for weights in (module.w1, module.w2):
                _draw(weights, n_weights)
        elif isinstance(module, Routers):
            for weights in (module.weight, module.noise_weight):
                _draw(weights, weights.shape[-1])


def _draw(weights: Tensor, n_inputs: int) -> None:
    """Uniform within ± 1 / √n: He's rule with the slope √5, PyTorch's default."""
    bound = n_inputs**-0.5
    weights.uniform_(-bound, bound)
