"""Where in a visit's scans a prediction comes from: Shapley values of the atlas' regions, against the average scan.

What plays is every region of every scan, and every column of a table; what does not play is as in the training's
average, which a model with a pooled encoder holds. The regions share a coarse cell as they share its tissue. Values add
up, exactly, to the prediction minus the prediction for average scans, given the same score and the same combination.

The ridge is linear in cells, so that each order in which regions may come gives its part the same value, which is the
closed form: weight times difference from the mean. Of the experts' part, orders are sampled (Castro et al. 2009), from
one seed; the tests hold that against the library captum, whose import alone takes longer than all of this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from permmoe.data.batch import Batch
from permmoe.ensemble import Network
from permmoe.explanation.atlas import REGIONS, cell_shares
from permmoe.layers.encoders import Centred, pooled_cells
from permmoe.modality import Modality

ORDERS = 16
"""Sampled orders; docs/reasons.md says how far values differ between two samples."""
SEED = 20250912

Held = Callable[[Float[Tensor, " batch"]], Float[Tensor, " batch"]]


@dataclass(frozen=True)
class Places:
    """A prediction taken apart by place: `average` + all of `parts` is the prediction, in the score's unit."""

    average: float
    """What the model predicts from the same combination with the training's average scans, for the same score."""
    parts: Mapping[str, Mapping[str, float]]
    """By modality of the visit: by region of an image, by column of a table."""

    def of(self, modality: str) -> float:
        """What all places of a modality add."""
        return sum(self.parts[modality].values())


def places(network: Network, batch: Batch, held: Held, *, seed: int = SEED) -> Places | None:
    """Where the prediction of a batch's only visit comes from; None where the model holds no average scan to compare.

    `held` puts changes onto the score's scale, `seed` draws the orders.
    """
    game = _Game.of(network, batch)
    if game is None:
        return None

    @torch.no_grad()
    def predicted(present: Float[Tensor, "row player"]) -> Float[Tensor, " row"]:
        return held(network(game.batch(present)).prediction)

    values = sampled_shapley(predicted, len(game.players), torch.Generator().manual_seed(seed))
    average = float(predicted(torch.zeros(1, len(game.players))))
    parts: dict[str, dict[str, float]] = {name: {} for name in game.ends}
    for (modality, part), value in zip(game.players, values.tolist(), strict=True):
        parts[modality][part] = value
    return Places(average, parts)


def sampled_shapley(
    value: Callable[[Float[Tensor, "row player"]], Float[Tensor, " row"]], players: int, random: torch.Generator
) -> Float64[Tensor, " player"]:
    """What each player adds to a value, averaged over `ORDERS` orders in which they come.

    Orders come in pairs, each with its reverse (antithetic sampling: Mitchell et al. 2022, JMLR 23:43): what any two
    players do together is then shared without error. Values add up to that of all minus that of none in every order.
    """
    totals = torch.zeros(players, dtype=torch.float64)
    for _ in range(ORDERS // 2):
        order = torch.randperm(players, generator=random)
        for coming in (order, order.flip(0)):
            # Row n has the first n that come.
            present = torch.zeros(players + 1, players)
            present[:, coming] = torch.ones(players + 1, players).tril(-1)
            totals[coming] += value(present).double().diff()
    return totals / ORDERS


@dataclass(frozen=True)
class _Game:
    """One visit's inputs between the training's average and its own."""

    players: tuple[tuple[str, str], ...]
    """Modality and region or column."""
    ends: Mapping[str, tuple[Float[Tensor, "1 ..."], Float[Tensor, "1 ..."]]]
    """By modality, the average input and the visit's."""
    shares: Mapping[str, Float[Tensor, "part ..."]]
    """By modality, which part of an input each of its players moves."""
    observed: Tensor
    baseline: Tensor
    target: Tensor
    horizon: Tensor | None

    @classmethod
    def of(cls, network: Network, batch: Batch) -> _Game | None:
        players: list[tuple[str, str]] = []
        ends, shares = {}, {}
        for modality in network.config.modalities:
            if modality.name not in batch.inputs:
                continue
            average = average_input(network, modality)
            if average is None:
                return None
            ends[modality.name] = average, batch.inputs[modality.name].float()
            if modality.has_columns:
                parts, share = modality.columns, torch.eye(len(modality.columns))
            else:
                cells = pooled_cells(network.config)
                parts, share = REGIONS, cell_shares(network.config.grid, cells)[:, None]
            shares[modality.name] = share
            players += [(modality.name, part) for part in parts]
        return cls(tuple(players), ends, shares, batch.observed, batch.baseline, batch.target, batch.horizon)

    def batch(self, present: Float[Tensor, "row player"]) -> Batch:
        """The visit once a row, each with those parts of it that are present, 0 to 1."""
        n, first = len(present), 0
        inputs = {}
        for name, (average, own) in self.ends.items():
            share = self.shares[name]
            weight = torch.tensordot(present[:, first : first + len(share)], share, dims=1)
            inputs[name] = average + weight * (own - average)
            first += len(share)
        horizon = None if self.horizon is None else self.horizon.expand(n)
        return Batch(inputs, self.observed.expand(n, -1), self.baseline.expand(n), self.target.expand(n), horizon)


def average_input(network: Network, modality: Modality) -> Float[Tensor, "1 ..."] | None:
    """The training's average of a modality, as an input; None for an encoder that does not hold it."""
    if modality.has_columns:
        return torch.tensor([modality.means or (0.0,) * len(modality.columns)])
    centred = [module for module in network.encoders[modality.name].modules() if isinstance(module, Centred)]
    return centred[0].centre.detach()[None] if centred else None
