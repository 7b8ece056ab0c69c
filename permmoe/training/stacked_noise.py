"""The random numbers of a stack's passes: each model's from a generator of its own, whatever stands beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from permmoe.layers.noise import Numbers, predrawn
from permmoe.model import PerMMoE
from permmoe.runtime.devices import device_of, seeded
from permmoe.training.dense_pass import DensePerMMoE, Inputs


@dataclass(frozen=True)
class _Asked:
    """A tensor of numbers that a pass asks for."""

    shape: torch.Size
    column: int | None
    """The modality for each of whose inputs it is, a row each; None where it is for the places of a batch."""


class StackedNoise:
    """What a pass of a model asks for, and its drawing for several models."""

    def __init__(self, model: PerMMoE, nothing: Inputs, places: int) -> None:
        """`nothing`: one input a modality; `places`: in a batch."""
        self.device = device_of(model)
        model.train()
        uniform, normal = list[_Asked](), list[_Asked]()
        with torch.no_grad(), seeded(0, self.device):
            for column, (name, x) in enumerate(zip(model.config.names, nothing, strict=True)):
                with predrawn(Numbers()) as numbers:
                    model.encoders[name](x)
                uniform.extend(_Asked(shape, column) for shape in numbers.asked_uniform)
                normal.extend(_Asked(shape, column) for shape in numbers.asked_normal)
            of_encoders = len(uniform), len(normal)
            observed = torch.zeros(places, len(nothing), dtype=torch.bool, device=self.device)
            rows = torch.zeros_like(observed, dtype=torch.long)
            with predrawn(Numbers()) as numbers:
                DensePerMMoE(model)(nothing, observed, torch.zeros(places, device=self.device), rows)
        uniform.extend(_Asked(shape, None) for shape in numbers.asked_uniform[of_encoders[0] :])
        normal.extend(_Asked(shape, None) for shape in numbers.asked_normal[of_encoders[1] :])
        self.uniform, self.normal = tuple(uniform), tuple(normal)

    def draw(
        self, generators: Sequence[torch.Generator], counts: Int[Tensor, "model modality"]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Uniform and normal numbers, each tensor with the models as a first dimension.

        `counts`: how many inputs of each modality a model's batch has. Rows behind them are zeros.
        """
        most, own = counts.amax(0).clamp(min=1).tolist(), counts.tolist()
        drawn: tuple[list[Tensor], list[Tensor]] = [], []
        for found, asked in zip(drawn, (self.uniform, self.normal), strict=True):
            for one in asked:
                shape = one.shape if one.column is None else torch.Size([most[one.column], *one.shape[1:]])
                found.append(torch.zeros(len(generators), *shape, device=self.device))
        for number, generator in enumerate(generators):
            for found, asked, fill in zip(
                drawn, (self.uniform, self.normal), (Tensor.uniform_, Tensor.normal_), strict=True
            ):
                for numbers, one in zip(found, asked, strict=True):
                    of_model = numbers[number]
                    fill(of_model if one.column is None else of_model[: own[number][one.column]], generator=generator)
        return drawn
