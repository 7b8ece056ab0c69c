"""What a visit's observed modalities say about those that it lacks: ridge regression between features, in closed form.

A missing modality's features are predicted from those of the observed ones, with the moments that the ridge of every
combination is solved from (permmoe.layers.ridge): in a federation exactly those of all visits in one place, and no
gradient moves them. The modality's own encoder then sees what was predicted, as if it had been measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor, nn

from permmoe.config import ModelConfig
from permmoe.data.batch import observed_masks
from permmoe.layers.input_kinds import INPUT_KINDS
from permmoe.layers.ridge import CombinationRidge, solved_in_bases
from permmoe.modality import combination_of


@dataclass(frozen=True)
class Translation:
    """A linear map from the features of an observed set to those of a modality that it lacks."""

    intercept: Float64[Tensor, " missing"]
    weights: Mapping[str, Float64[Tensor, "feature missing"]]


class Translator(nn.Module):
    """Predicts the inputs of missing modalities. It has no parameters of its own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.ridge is None:
            raise ValueError("the model's configuration has no ridge, whose moments translate")
        cells = config.ridge.cells
        self.names = config.names
        self.inputs_of = nn.ModuleDict(
            {m.name: INPUT_KINDS[m.kind].of_features(m, config, cells) for m in config.modalities}
        )
        self._solved: tuple[int, dict[tuple[int, str], Translation]] = (0, {})

    @torch.no_grad()
    def forward(
        self,
        ridge: CombinationRidge,
        features: Mapping[str, Float64[Tensor, "_ _"]],
        observed: Bool[Tensor, "batch modality"],
    ) -> dict[str, Tensor]:
        """For each modality that some visit lacks, its predicted inputs: a row for every such visit, in batch order.

        `features` hold a row for every visit in which a modality is observed, in batch order. Inputs are as a batch
        holds them, a volume's interpolated from the ridge's coarse cells.
        """
        masks, places = observed_masks(observed), observed.long().cumsum(0) - 1
        found: dict[str, Tensor] = {}
        for column, name in enumerate(self.names):
            lacking = (~observed[:, column]).nonzero().squeeze(1)
            if not len(lacking):
                continue
            predicted = ridge.mean(name).repeat(len(lacking), 1)
            for mask in sorted(set(masks[lacking].tolist())):
                alike = (masks[lacking] == mask).nonzero().squeeze(1)
                own = self.translation(ridge, mask, name)
                value = own.intercept.expand(len(alike), -1)
                for other, weights in own.weights.items():
                    rows = places[lacking[alike], self.names.index(other)]
                    value = value + features[other][rows] @ weights
                predicted[alike] = value
            found[name] = self.inputs_of[name](predicted)
        return found

    def translation(self, ridge: CombinationRidge, mask: int, missing: str) -> Translation:
        """From a combination, given as a bit mask, to a modality. Solved once for the moments as they are now."""
        state = ridge.state()
        if self._solved[0] != state:
            self._solved = (state, {})
        solved = self._solved[1]
        if (mask, missing) not in solved:
            solved[mask, missing] = _solved(ridge, combination_of(mask, self.names), missing)
        return solved[mask, missing]


def _solved(ridge: CombinationRidge, observed: tuple[str, ...], missing: str) -> Translation:
    bases = {name: basis for name in observed if (basis := ridge.basis(name)).shape[1]}
    intercept = ridge.mean(missing)
    if not bases:
        return Translation(intercept, {})
    matrix = torch.cat(
        [torch.cat([a.T @ ridge.covariance(m, n) @ b for n, b in bases.items()], dim=1) for m, a in bases.items()]
    )
    answer = torch.cat([basis.T @ ridge.covariance(name, missing) for name, basis in bases.items()])
    solution = solved_in_bases(matrix, answer, torch.full_like(answer[:, 0], ridge.penalty))
    pieces = torch.split(solution, [basis.shape[1] for basis in bases.values()])
    weights = {name: bases[name] @ piece for name, piece in zip(bases, pieces, strict=True)}
    intercept = intercept - sum(ridge.mean(name) @ own for name, own in weights.items())
    return Translation(intercept, weights)
