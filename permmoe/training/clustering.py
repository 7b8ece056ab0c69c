"""The centres of a model's clusters, set from what its encoders make of the training visits: one step of k-means."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from permmoe.data.dataset import VisitData
from permmoe.layers.clusters import Clusters
from permmoe.model import PerMMoE
from permmoe.runtime.devices import device_of

ENCODED_AT_ONCE = 64
"""Visits whose tokens are computed at a time."""


@torch.no_grad()
def set_clusters(model: PerMMoE, clusters: Clusters, data: VisitData) -> Float64[Tensor, " centre"]:
    """Set the model's `clusters`; returns how many visits each centre is now the mean of, 0 where it was left alone.

    Every observed modality counts, without modality dropout or any other. Leaves the model in the mode it was in.
    """
    was_training, rows = model.training, torch.arange(len(data))
    sums, counts = torch.zeros(clusters.centres.shape, dtype=torch.float64), torch.zeros(len(clusters.centres)).double()
    model.eval()
    for some in torch.split(rows, ENCODED_AT_ONCE):
        batch = data.batch(some)
        tokens = model.completed(model.encode(batch.to(device_of(model))))
        own_sums, own_counts = clusters.sums(tokens, batch.observed)
        sums, counts = sums + own_sums.cpu(), counts + own_counts.cpu()
    clusters.put(sums.to(clusters.centres.device), counts.to(clusters.centres.device))
    model.train(was_training)
    return counts
