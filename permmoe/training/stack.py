"""Several models of one configuration as one: their parameters side by side, so that a step is a step of all of them.

A small model's step is a few hundred operations on a few thousand numbers each, and takes the time that it takes to
start them. Seeds, folds and hospitals of a study are many such models. In a stack each operation is started once for
all. Every model keeps its own visits, order, random numbers, gradient norm and optimiser, so that what it learns does
not depend on which others stand beside it, but for the rounding of batched products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from permmoe.config import ModelConfig, TrainConfig
from permmoe.model import PerMMoE
from permmoe.training.optimiser import is_decayed

ENCODERS = "encoders."
SPREAD = "spread."
RIDGE = "ridge."
"""It plays no role in training."""


@dataclass(frozen=True)
class Group:
    """Parameters of a model that are stepped together: of one encoder, of the spread's head, or all others."""

    encoder: str
    """The modality of the encoder that they belong to; empty for others."""
    is_spread: bool
    is_decayed: bool
    start: int
    end: int
    """Where they lie in the vector of a model's trained parameters."""


class Stack:
    """The trained parameters of all models, a row for each, and an optimiser that steps rows one by one.

    The models are read once and written by `write`; in between they are as they were.
    """

    def __init__(self, models: Sequence[PerMMoE], config: TrainConfig) -> None:
        """Raises ValueError for no model, and for models whose configurations differ by more than scales of tables."""
        if not models or any(without_scales(model.config) != without_scales(models[0].config) for model in models):
            raise ValueError("a stack has models, all of one configuration")
        self.models, self.gradient_norm = tuple(models), config.gradient_norm or inf
        own = [dict(model.named_parameters()) for model in models]
        trained = sorted((name for name, p in own[0].items() if p.requires_grad), key=lambda name: _kind(name, own[0]))
        self.names = tuple(trained)
        self.shapes = {name: own[0][name].shape for name in trained}
        with torch.no_grad():
            self.rows = torch.stack([torch.cat([row[name].flatten() for name in trained]) for row in own])
        self.groups = _groups(trained, own[0])
        sizes = [self.shapes[name].numel() for name in trained]
        pieces = torch.split(self.rows, sizes, dim=1)
        self.parameters = {
            name: piece.view(len(models), *self.shapes[name]).detach().requires_grad_()
            for name, piece in zip(trained, pieces, strict=True)
        }
        """By name, with the models as a first dimension: views of `rows`, and leaves of the graph."""
        fixed = [{**row, **dict(model.named_buffers())} for row, model in zip(own, models, strict=True)]
        self.fixed = {
            name: torch.stack([row[name].detach() for row in fixed])
            for name in fixed[0]
            if name not in self.parameters and not name.startswith(RIDGE)
        }
        """What no gradient moves: centres of inputs, scales of tables, tokens that are not learned."""
        self._vectors = [[row[group.start : group.end] for group in self.groups] for row in self.rows]
        decays = {True: config.weight_decay, False: 0.0}
        self.optimiser = torch.optim.AdamW(
            [
                {
                    "params": [
                        vector
                        for vectors in self._vectors
                        for vector, group in zip(vectors, self.groups, strict=True)
                        if group.is_decayed == decayed
                    ],
                    "weight_decay": decay,
                }
                for decayed, decay in decays.items()
            ],
            lr=config.learning_rate,
            fused=True,
        )

    def __len__(self) -> int:
        return len(self.models)

    def gradients(self, loss: Float[Tensor, ""]) -> Float[Tensor, "model parameter"]:
        """Of a sum of the models' losses, a row for each model; clipped, the spread's head by itself. Zero for what
        plays no role in the losses."""
        leaves = list(self.parameters.values())
        found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        gradients = torch.cat([gradient.flatten(1) for gradient in found], dim=1)
        n_predicting = next((group.start for group in self.groups if group.is_spread), gradients.shape[1])
        for part in (gradients[:, :n_predicting], gradients[:, n_predicting:]):
            if part.shape[1] and self.gradient_norm < inf:
                norms = torch.linalg.vector_norm(part, dim=1, keepdim=True)
                part.mul_((self.gradient_norm / (norms + 1e-6)).clamp(max=1.0))
        return gradients

    def step(self, gradients: Float[Tensor, "model parameter"], seen: Mapping[str, Bool[Tensor, " model"]]) -> None:
        """A step of the optimiser, which counts its steps for each model and group of parameters.

        `seen`: for each modality, which models' batches hold it. An encoder that no visit of its model's batch went
        through stays as it is, and so does a model without a visit.
        """
        goes = {"": torch.stack(list(seen.values())).any(0).tolist(), **{name: x.tolist() for name, x in seen.items()}}
        for number, vectors in enumerate(self._vectors):
            for vector, group in zip(vectors, self.groups, strict=True):
                is_stepped = goes[group.encoder][number]
                vector.grad = gradients[number, group.start : group.end] if is_stepped else None
        self.optimiser.step()

    @torch.no_grad()
    def write(self, number: int) -> None:
        """Give a model its row."""
        own = dict(self.models[number].named_parameters())
        for name, stacked in self.parameters.items():
            own[name].copy_(stacked[number])

    def optimiser_tensors(self, number: int) -> dict[str, Tensor]:
        """Copies of a model's moments and step counts on the CPU, as permmoe.training.optimiser names them."""
        found: dict[str, Tensor] = {}
        at = 0
        states = {
            group.start: (group, self.optimiser.state[vector])
            for vector, group in zip(self._vectors[number], self.groups, strict=True)
        }
        for name, shape in self.shapes.items():
            group, state = next(one for one in states.values() if one[0].start <= at < one[0].end)
            for key, value in state.items():
                piece = value[at - group.start : at - group.start + shape.numel()].view(shape) if value.ndim else value
                found[f"{name}/{key}"] = piece.detach().cpu().clone()
            at += shape.numel()
        return found


def without_scales(config: ModelConfig) -> ModelConfig:
    """The configuration without what was fitted to training visits: models of one differ in numbers alone."""
    modalities = tuple(m.model_copy(update={"means": (), "deviations": ()}) for m in config.modalities)
    return config.model_copy(update={"modalities": modalities})


def _kind(name: str, parameters: Mapping[str, Tensor]) -> tuple[bool, str, bool]:
    """What parameters are sorted by: the spread's behind all others, then by encoder, then by weight decay."""
    encoder = name.removeprefix(ENCODERS).split(".")[0] if name.startswith(ENCODERS) else ""
    return name.startswith(SPREAD), encoder, is_decayed(parameters[name])


def _groups(names: Sequence[str], parameters: Mapping[str, Tensor]) -> tuple[Group, ...]:
    """Runs of parameters of one kind; the names are sorted by it."""
    groups: list[Group] = []
    at = 0
    for name in names:
        is_spread, encoder, decayed = _kind(name, parameters)
        end = at + parameters[name].numel()
        if groups and (groups[-1].is_spread, groups[-1].encoder, groups[-1].is_decayed) == (
            is_spread,
            encoder,
            decayed,
        ):
            groups[-1] = Group(encoder, is_spread, decayed, groups[-1].start, end)
        else:
            groups.append(Group(encoder, is_spread, decayed, at, end))
        at = end
    return tuple(groups)
