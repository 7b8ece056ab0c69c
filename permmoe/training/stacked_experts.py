"""The experts of a stack of models as one product over all of them, inside `torch.func.vmap` over the models."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from permmoe.layers.experts import Experts, grouped_experts, product_precision


def stacked_experts(
    experts: Experts, tokens: Float[Tensor, "token dim"], gates: Float[Tensor, "token expert"]
) -> Float[Tensor, "token dim"]:
    """One model's experts, as vmap sees them: each token goes to the k experts with a gate."""
    own = tokens, gates, experts.w1, experts.b1, experts.w2, experts.b2
    mixed: Tensor = _OfAllModels.apply(*own, experts.top_k)  # type: ignore[no-untyped-call]
    return mixed


class _OfAllModels(torch.autograd.Function):
    """`grouped_experts` under vmap, which has no rule for grouped products. It follows the tensors of all models, so
    that gradients go through it as through any other function."""

    @staticmethod
    def forward(*_: Any) -> Tensor:
        """Never called under vmap."""
        raise RuntimeError("outside of a stack a model's experts are called directly")

    @staticmethod
    def setup_context(*_: Any) -> None:
        """Nothing to keep: see `vmap`."""

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *given: Any) -> tuple[Tensor, int]:
        """The product over all models, which are the first dimension of what is returned."""
        *tensors, k = given
        models = [
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(tensors, dims[:-1], strict=True)
        ]
        return grouped_experts(*models, k=k, precision=product_precision(models[0])), 0
