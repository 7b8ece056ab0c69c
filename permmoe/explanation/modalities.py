"""What each modality adds to a prediction: Shapley values over withholding it (Shapley 1953; Lundberg and Lee 2017).

The model predicts from every combination that the visit has, so that all 2^n of them are asked and the values are
exact: they add up to the prediction minus what is expected of anybody. The score at the visit is one more that plays:
without it, the training's mean score stands in. Without any modality the model predicts nothing; there the line through
the training's outcomes stands in (permmoe.data.outcomes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import factorial

import torch
from jaxtyping import Float
from torch import Tensor

from permmoe.ensemble import Network
from permmoe.errors import ConfigurationError
from permmoe.modality import Combination, all_combinations
from permmoe.model import Encoded

MOST_MODALITIES = 12
"""Of a visit: 4,095 combinations."""

SCORE = "score at the visit"
"""The player that is no modality; no modality's name has a space."""

Expected = Callable[[float], float]
"""From the score at the visit to the change that is expected without any modality."""


@dataclass(frozen=True)
class Added:
    """A prediction taken apart: `expected` + `score` + all of `modalities` is the prediction, in the score's unit."""

    expected: float
    """The change expected of anybody: the training's mean."""
    score: float
    """What the visit's score adds to that."""
    modalities: Mapping[str, float]
    """What each modality of the visit adds, in the model's order; one that the visit lacks is not there."""

    @property
    def prediction(self) -> float:
        """The sum of all."""
        return self.expected + self.score + sum(self.modalities.values())


def added(
    network: Network, encoded: Encoded, expected: Expected, mean_score: float, held: Callable[[float, float], float]
) -> Added:
    """What each modality and the score add to the prediction of one visit, encoded in evaluation mode.

    `held` puts a change, for a score at the visit, onto the score's scale, as the prediction's own was. Raises
    ConfigurationError for a visit with more modalities than all of whose combinations can be asked.
    """
    names = tuple(name for name, has in zip(encoded.names, encoded.observed[0].tolist(), strict=True) if has)
    if len(names) > MOST_MODALITIES:
        raise ConfigurationError(
            f"reasons are exact for at most {MOST_MODALITIES} modalities of a visit, and this one has {len(names)}; "
            "leave some out"
        )
    own_score = float(encoded.baseline[0])
    values: dict[frozenset[str], float] = {}
    for player, score in ((frozenset[str](), mean_score), (frozenset({SCORE}), own_score)):
        found = {(): expected(score)} | _predictions(network, encoded, names, score)
        values |= {player | frozenset(combination): held(value, score) for combination, value in found.items()}
    shares = shapley((*names, SCORE), lambda coalition: values[coalition])
    return Added(values[frozenset()], shares.pop(SCORE), shares)


def shapley(players: Sequence[str], value: Callable[[frozenset[str]], float]) -> dict[str, float]:
    """Each player's Shapley value: what it adds, averaged over all orders in which the players may come."""
    n = len(players)
    coalitions = [frozenset(), *(frozenset(c) for c in all_combinations(players))]
    values = {coalition: value(coalition) for coalition in coalitions}
    weights = [factorial(size) * factorial(n - size - 1) / factorial(n) for size in range(n)]
    return {
        player: sum(
            weights[len(others)] * (values[others | {player}] - values[others])
            for others in coalitions
            if player not in others
        )
        for player in players
    }


@torch.no_grad()
def _predictions(network: Network, encoded: Encoded, names: Combination, score: float) -> dict[Combination, float]:
    """The model's prediction from each combination of the visit's modalities, had it this score."""
    combinations = all_combinations(names)
    kept = torch.tensor([[name in combination for name in encoded.names] for combination in combinations])
    rows = encoded.keeping(torch.zeros(len(combinations), dtype=torch.long), kept)
    baseline: Float[Tensor, " batch"] = torch.full_like(rows.baseline, score)
    found = network.fuse(rows.with_baseline(baseline)).prediction.tolist()
    return dict(zip(combinations, found, strict=True))
