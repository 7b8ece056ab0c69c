"""Deleting places of a visit's scans, in that the training's average takes their place, and what that does.

One deletion says for each modality which share of each cell goes. Regions go as the atlas divides cells, random ones
as balls about a random cell of the brain, of as many cells as the region that they stand against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from permmoe.data.batch import Batch
from permmoe.ensemble import Network
from permmoe.explanation.atlas import OUTSIDE, REGIONS, cell_shares
from permmoe.explanation.places import average_input
from permmoe.layers.encoders import pooled_cells

Place = tuple[str, str]
"""Modality and region."""
Deleted = Mapping[str, Float[Tensor, "x y z"]]


def deleted_regions(network: Network, chosen: Sequence[Place]) -> Deleted:
    """The deletion of these regions."""
    shares = cell_shares(network.config.grid, pooled_cells(network.config))
    gone = {name: torch.zeros(shares.shape[1:]) for name, _ in chosen}
    for name, region in chosen:
        gone[name] += shares[REGIONS.index(region)]
    return gone


def deleted_balls(network: Network, chosen: Sequence[Place], rng: np.random.Generator) -> Deleted:
    """For each of these regions a ball of as many cells of the same scan, anywhere in the brain; they may overlap."""
    shares = cell_shares(network.config.grid, pooled_cells(network.config))
    brain = 1 - shares[REGIONS.index(OUTSIDE)]
    gone = {name: torch.zeros_like(brain) for name, _ in chosen}
    places = brain.nonzero().double()
    for name, region in chosen:
        centre = places[int(rng.integers(len(places)))]
        order = (places - centre).norm(dim=1).argsort(stable=True)
        # Whole cells from the centre outwards, of the last one as much as is wanted.
        taken = (float(shares[REGIONS.index(region)].sum()) - torch.arange(len(places))).clamp(0, 1)
        ball = torch.zeros_like(brain)
        ball[tuple(places[order].long().T)] = taken
        gone[name] = torch.maximum(gone[name], ball)
    return gone


@torch.no_grad()
def predictions_without(network: Network, batch: Batch, deletions: Sequence[Deleted]) -> Float[Tensor, " deletion"]:
    """What the model predicts for a batch's only visit after each of the deletions."""
    n = len(deletions)
    inputs = {}
    for modality in network.config.modalities:
        if (own := batch.inputs.get(modality.name)) is None:
            continue
        average = average_input(network, modality)
        assert average is not None  # models that are measured have pooled encoders
        gone = [d.get(modality.name, torch.zeros(own.shape[2:])) for d in deletions]
        inputs[modality.name] = own + torch.stack(gone)[:, None] * (average - own)
    rows = Batch(inputs, batch.observed.expand(n, -1), batch.baseline.expand(n), batch.target.expand(n))
    after: Float[Tensor, " deletion"] = network(rows).prediction
    return after
