"""Ridge regression for every combination, in closed form: the linear partner of the mixture of experts.

With a few hundred visits a linear model of coarse voxels is hard to beat where few modalities are left. Fitted for each
combination by itself (kernel ridge in permmoe.evaluation.baselines) it forgets all visits that lack one of its
modalities. Here each block of the covariance matrix is taken over all visits that have the two modalities of the block
(available-case analysis, Little and Rubin 2019, section 3.4), and every combination is solved from those blocks.

A block is a mean over visits, so a federation sets it by averaging the sites' means by their numbers of such visits:
what modality-aware averaging is for trained modules, and exact. No gradient moves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from math import sqrt

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn

from permmoe.config import ModelConfig
from permmoe.data.batch import observed_masks
from permmoe.layers.input_kinds import INPUT_KINDS
from permmoe.layers.moments import EVERYBODY, KnownMoments, Moments, block_name
from permmoe.modality import combination_of

BASELINE_PENALTY = 1e-3
"""The slope of baseline CDR-SB is estimated from all visits, so it needs next to no shrinking."""
SMALLEST_VARIANCE = 1e-6
"""Directions with a smaller share of the largest variance are noise of 32-bit sums."""


@dataclass(frozen=True)
class Weights:
    """A combination's linear model of the change in CDR-SB, points."""

    intercept: float
    baseline: float
    """The slope of baseline CDR-SB in points."""
    features: Mapping[str, Float64[Tensor, " feature"]]


@dataclass
class _Solved:
    """What follows from the moments of one state, as far as it was asked for."""

    state: int
    weights: dict[int, Weights] = field(default_factory=dict)
    bases: dict[str, Tensor] = field(default_factory=dict)


class CombinationRidge(nn.Module):
    """Predicts from coarse voxels, tables' columns and baseline CDR-SB; all zero until its moments are set."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.ridge is None:
            raise ValueError("the model's configuration has no ridge")
        self.names, self.penalty = config.names, config.ridge.penalty
        self.declared_scale = config.baseline_scale_points if config.ridge.directions == "declared" else None
        coarse = {m.name: INPUT_KINDS[m.kind].ridge_features(m, config.ridge.cells) for m in config.modalities}
        self.coarse = nn.ModuleDict({name: module for name, (module, _) in coarse.items()})
        self.sizes = sizes = {name: size for name, (_, size) in coarse.items()}
        blocks = {EVERYBODY: Moments(2, 2)}
        # Baseline and outcome stand behind a modality's features: their moments with them are over the same visits.
        blocks |= {name: Moments(size + 2, size + 2) for name, size in sizes.items()}
        blocks |= {block_name(a, b): Moments(sizes[a], sizes[b]) for a, b in combinations(self.names, 2)}
        self.moments = nn.ModuleDict(blocks)
        self._known = KnownMoments()
        self._solved = _Solved(0)

    def features(self, name: str, inputs: Float[Tensor, "n ..."]) -> Float64[Tensor, "n feature"]:
        """A modality's inputs, as a batch holds them, as the ridge sees them: coarse voxels or scaled columns."""
        features: Tensor = self.coarse[name](inputs)
        return features.double()

    @torch.no_grad()
    def set_moments(
        self, features: Mapping[str, Float64[Tensor, "_ _"]], rows: Mapping[str, Int[Tensor, " _"]],
        baseline: Float[Tensor, " visit"], target: Float[Tensor, " visit"],
    ) -> None:  # fmt: skip
        """Set all blocks from the training visits; one that no visit has stays. `rows`: the visits of the features."""
        clinical = torch.stack([baseline, target], dim=1).double()
        self._block(EVERYBODY).set_from(clinical, clinical)
        own = {name: torch.cat([features[name], clinical[rows[name]]], dim=1) for name in features if len(rows[name])}
        for name, values in own.items():
            self._block(name).set_from(values, values)
        for first, second in combinations([name for name in self.names if name in own], 2):
            in_first, in_second = (torch.isin(rows[a], rows[b]) for a, b in ((first, second), (second, first)))
            if in_first.any():
                pair = features[first][in_first], features[second][in_second]
                self._block(block_name(first, second)).set_from(*pair)

    @torch.no_grad()
    def forward(
        self, features: Mapping[str, Float64[Tensor, "n feature"]], observed: Bool[Tensor, "batch modality"],
        baseline: Float[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:  # fmt: skip
        """Change in CDR-SB at the horizon, points, from whatever each visit has.

        `features` hold for each modality a row for every visit in which it is observed, in batch order.
        """
        masks = observed_masks(observed)
        predictions = torch.zeros(len(masks), dtype=torch.float64, device=baseline.device)
        places = observed.long().cumsum(0) - 1
        for mask in sorted(set(masks.tolist())):
            chosen = (masks == mask).nonzero().squeeze(1)
            weights = self.weights(mask)
            found = weights.intercept + weights.baseline * baseline[chosen].double()
            for name, own in weights.features.items():
                rows = places[chosen, self.names.index(name)]
                found = found + features[name][rows] @ own.to(baseline.device)
            predictions[chosen] = found
        return predictions.float()

    def weights(self, mask: int) -> Weights:
        """The model of a combination, given as a bit mask. Solved once for the moments as they are now."""
        solved = self._solved_now()
        if mask not in solved.weights:
            solved.weights[mask] = self._solve(mask)
        return solved.weights[mask]

    def _solved_now(self) -> _Solved:
        state = self.state()
        if self._solved.state != state:
            self._solved = _Solved(state)
        return self._solved

    def state(self) -> int:
        """Another number whenever the moments are not what they were when it was asked for last."""
        return self._known.number_of(list(self.moments.parameters()))

    def _solve(self, mask: int) -> Weights:
        everybody = self._block(EVERYBODY)
        spread = everybody.covariance()
        mean_baseline, mean_target = everybody.left.tolist()
        scale = self._scale_of_score(float(spread[0, 0]))
        bases = {name: self.basis(name) for name in combination_of(mask, self.names)}
        bases = {name: basis for name, basis in bases.items() if basis.shape[1]}
        # Baseline first, then each modality in its own basis.
        with_baseline = {n: scale * self._own(n)[:-2, -2] @ basis for n, basis in bases.items()}
        with_target = {n: self._own(n)[:-2, -1] @ basis for n, basis in bases.items()}
        rows = [torch.cat([(scale * scale * spread[0, 0])[None], *with_baseline.values()])[None]]
        for name, basis in bases.items():
            blocks = [basis.T @ self.covariance(name, other) @ bases[other] for other in bases]
            rows.append(torch.cat([with_baseline[name][:, None], *blocks], dim=1))
        matrix = torch.cat(rows)
        answer = torch.cat([(scale * spread[0, 1])[None], *with_target.values()])
        penalty = torch.full_like(answer, self.penalty)
        if not self.declared_scale:
            penalty[0] = BASELINE_PENALTY
        solution = solved_in_bases(matrix, answer, penalty)
        pieces = torch.split(solution[1:], [basis.shape[1] for basis in bases.values()])
        features = {name: bases[name] @ piece for name, piece in zip(bases, pieces, strict=True)}
        baseline = float(scale * solution[0])
        intercept = mean_target - baseline * mean_baseline
        intercept -= sum(float(self.mean(n) @ own) for n, own in features.items())
        return Weights(intercept, baseline, features)

    def _scale_of_score(self, variance: float) -> float:
        """What the score at the visit is multiplied by before it is shrunk; `variance`: the visits' own, points²."""
        if self.declared_scale:
            return 1 / self.declared_scale
        return 1 / sqrt(variance) if variance > 0 else 0.0

    def mean(self, name: str) -> Float64[Tensor, " feature"]:
        """A modality's mean features over the visits that have it; zeros where none has."""
        return self._block(name).left[:-2].double()

    def basis(self, name: str) -> Float64[Tensor, "feature direction"]:
        """Principal directions, scaled half of the way to equal variances: the fourth root of whitening.

        Unscaled, the few directions in which all brains differ most outweigh the rest; whitened, noise counts as much.
        Declared directions are the features themselves.
        """
        bases = self._solved_now().bases
        if name not in bases:
            bases[name] = self._basis(name)
        return bases[name]

    def _basis(self, name: str) -> Float64[Tensor, "feature direction"]:
        if self.declared_scale:
            return torch.eye(self.sizes[name], dtype=torch.float64, device=self._block(name).left.device)
        variance, directions = torch.linalg.eigh(self._own(name)[:-2, :-2])
        kept = variance > SMALLEST_VARIANCE * variance[-1].clamp(min=1e-12)
        deviation = variance[kept].sqrt()
        basis: Tensor = directions[:, kept] / (deviation * deviation.square().sum().sqrt()).sqrt()
        return basis

    def _own(self, name: str) -> Float64[Tensor, "own own"]:
        covariance = self._block(name).covariance()
        return (covariance + covariance.T) / 2

    def covariance(self, first: str, second: str) -> Float64[Tensor, "first second"]:
        """Of the features of two modalities, over the visits that have both; zeros where none has."""
        if first == second:
            return self._own(first)[:-2, :-2]
        if self.names.index(first) > self.names.index(second):
            transposed: Tensor = self.covariance(second, first).T
            return transposed
        return self._block(block_name(first, second)).covariance()

    def _block(self, key: str) -> Moments:
        block = self.moments[key]
        assert isinstance(block, Moments)
        return block


def solved_in_bases(
    matrix: Float64[Tensor, "row row"], answer: Float64[Tensor, "row ..."], penalty: Float64[Tensor, " row"]
) -> Float64[Tensor, "row ..."]:
    """The penalised solution of a covariance matrix put together from blocks, each over visits of its own.

    Such blocks need not make a covariance matrix together; negative eigenvalues become zero.
    """
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    semidefinite = (vectors * values.clamp(min=0)) @ vectors.T
    solution: Tensor = torch.linalg.solve(semidefinite + penalty.diag(), answer)
    return solution
