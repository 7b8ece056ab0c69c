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
LARGE = 4096
"""Numbers of a parameter that is a group by itself, so that neither it nor its gradient has to be copied."""


@dataclass(frozen=True)
class Group:
    """Parameters of a model that are stepped together: of one encoder, of the spread's head, or all others."""

    encoder: str
    """The modality of the encoder that they belong to; empty for others."""
    is_spread: bool
    is_decayed: bool
    names: tuple[str, ...]


@dataclass(frozen=True)
class Gradients:
    """Those of some models of a stack, clipped."""

    by_group: tuple[Float[Tensor, "model _"], ...]
    norms: Float[Tensor, " model"]
    """Before they were clipped; no number where any gradient is none."""


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
        self.shapes = {name: p.shape for name, p in own[0].items() if p.requires_grad}
        self.groups = _groups({name: own[0][name] for name in self.shapes})
        self.parameters: dict[str, Tensor] = {}
        """By name, with the models as a first dimension: views of their groups' rows, and leaves of the graph."""
        self._rows: list[Tensor] = []
        """For each group, [model, number]."""
        for group in self.groups:
            stacked = [torch.stack([row[name].detach() for row in own]) for name in group.names]
            self._rows.append(torch.cat([_flat(x) for x in stacked], dim=1))
            self.parameters |= self._leaves(group, self._rows[-1])
        fixed = [{**row, **dict(model.named_buffers())} for row, model in zip(own, models, strict=True)]
        self._fixed = {
            name: torch.stack([row[name].detach() for row in fixed])
            for name in fixed[0]
            if name not in self.parameters and not name.startswith(RIDGE)
        }
        self._vectors = [[rows[number] for rows in self._rows] for number in range(len(models))]
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

    def leaves(self, models: Sequence[int]) -> dict[str, Tensor]:
        """The parameters of these models, by name, to follow gradients to."""
        if len(models) == len(self):
            return self.parameters
        chosen = torch.tensor(models, device=self._rows[0].device)
        leaves: dict[str, Tensor] = {}
        for group, rows in zip(self.groups, self._rows, strict=True):
            leaves |= self._leaves(group, rows.index_select(0, chosen))
        return leaves

    def fixed(self, models: Sequence[int]) -> dict[str, Tensor]:
        """What no gradient moves of these models: centres of inputs, scales of tables, tokens that are not learned."""
        if len(models) == len(self):
            return self._fixed
        chosen = torch.tensor(models, device=self._rows[0].device)
        return {name: value.index_select(0, chosen) for name, value in self._fixed.items()}

    def _leaves(self, group: Group, rows: Float[Tensor, "model _"]) -> dict[str, Tensor]:
        return {name: piece.detach().requires_grad_() for name, piece in self._pieces(group, rows).items()}

    def _pieces(self, group: Group, rows: Float[Tensor, "model _"]) -> dict[str, Tensor]:
        """Views of the rows, by name, with the models as a first dimension."""
        pieces = torch.split(rows, [self.shapes[name].numel() for name in group.names], dim=1)
        return {name: _unflat(piece, self.shapes[name]) for name, piece in zip(group.names, pieces, strict=True)}

    def gradients(self, loss: Float[Tensor, ""], leaves: Mapping[str, Tensor]) -> Gradients:
        """Of a sum of these models' losses; clipped, the spread's head by itself. Zero for what plays no role."""
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        flat = {name: _flat(gradient) for name, gradient in zip(leaves, found, strict=True)}
        by_group = [_joined([flat[name] for name in group.names]) for group in self.groups]
        norms = []
        for is_spread in (False, True):
            part = [x for x, group in zip(by_group, self.groups, strict=True) if group.is_spread == is_spread]
            if not part:
                continue
            norm = torch.stack([torch.linalg.vector_norm(x, dim=1) for x in part]).norm(dim=0)
            if self.gradient_norm < inf:
                share = (self.gradient_norm / (norm + 1e-6)).clamp(max=1.0).unsqueeze(1)
                for x in part:
                    x.mul_(share)
            norms.append(norm)
        return Gradients(tuple(by_group), torch.stack(norms).sum(0))

    def step(self, gradients: Gradients, models: Sequence[int], seen: Mapping[str, Bool[Tensor, " model"]]) -> None:
        """A step of the optimiser for these models, whose steps it counts for each model and group of parameters.

        `seen`: for each modality, which of the models' batches hold it. An encoder that no visit of its model's batch
        went through stays as it is, and so do all other models.
        """
        self.optimiser.zero_grad()
        goes = {name: own.tolist() for name, own in seen.items()}
        for row, number in enumerate(models):
            for gradient, vector, group in zip(gradients.by_group, self._vectors[number], self.groups, strict=True):
                if not group.encoder or goes[group.encoder][row]:
                    vector.grad = gradient[row]
        self.optimiser.step()

    @torch.no_grad()
    def write(self, number: int) -> None:
        """Give a model its row."""
        own = dict(self.models[number].named_parameters())
        for name, stacked in self.parameters.items():
            own[name].copy_(stacked[number])


def _flat(stacked: Float[Tensor, "model ..."]) -> Float[Tensor, "model _"]:
    """Each model's numbers as a row. Those of a matrix are read by columns: so a linear map's gradient comes."""
    return (stacked.transpose(1, 2) if stacked.ndim == 3 else stacked).flatten(1)


def _joined(rows: Sequence[Float[Tensor, "model _"]]) -> Float[Tensor, "model _"]:
    """Side by side; one alone is not copied."""
    return torch.cat(list(rows), dim=1) if len(rows) > 1 else rows[0]


def _unflat(rows: Float[Tensor, "model _"], shape: torch.Size) -> Float[Tensor, "model ..."]:
    """What `_flat` made the rows of; a view of them."""
    if len(shape) == 2:
        return rows.view(len(rows), shape[1], shape[0]).transpose(1, 2)
    return rows.view(len(rows), *shape)


def without_scales(config: ModelConfig) -> ModelConfig:
    """The configuration without what was fitted to training visits: models of one differ in numbers alone."""
    modalities = tuple(m.model_copy(update={"means": (), "deviations": ()}) for m in config.modalities)
    return config.model_copy(update={"modalities": modalities})


def _groups(parameters: Mapping[str, Tensor]) -> tuple[Group, ...]:
    """Parameters of one kind together, but for the large ones; the spread's are behind all others."""
    kinds: dict[tuple[bool, str, bool, str], list[str]] = {}
    for name, parameter in parameters.items():
        encoder = name.removeprefix(ENCODERS).split(".")[0] if name.startswith(ENCODERS) else ""
        alone = name if parameter.numel() >= LARGE else ""
        kinds.setdefault((name.startswith(SPREAD), encoder, is_decayed(parameter), alone), []).append(name)
    return tuple(
        Group(encoder, is_spread, decayed, tuple(names))
        for (is_spread, encoder, decayed, _), names in sorted(kinds.items())
    )
