"""What is measured before the first step instead of learned: means over the training visits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from permmoe.data.batch import observed_masks
from permmoe.data.dataset import VisitData
from permmoe.layers.encoders import Centred
from permmoe.model import PerMMoE
from permmoe.runtime.devices import device_of
from permmoe.training.clustering import set_clusters
from permmoe.training.exposure import Exposure, TrainingRecord, with_clusters

READ_AT_ONCE = 64
"""Visits read at a time while inputs are averaged."""


@torch.no_grad()
def set_means(model: PerMMoE, data: VisitData) -> TrainingRecord:
    """Set what is a mean over visits: the centre of every encoder that has one and did not bring it along, the ridge's
    moments, and the centres of clusters.

    The record's exposure says how many visits each mean is over, so that a federation weights the sites' means as it
    weights their training, and ends with the mean over all sites' visits.
    """
    counts = {name: float(n) for name, n in zip(data.names, data.observed.sum(0).tolist(), strict=True)}
    rows_of = observed_rows(data)
    features: dict[str, Tensor] = {}
    for name, rows in rows_of.items():
        centred = [m for m in model.encoders[name].modules() if isinstance(m, Centred)]
        if model.config.encoder.weights:
            centred = []
        if not len(rows) or not (centred or model.ridge):
            continue
        total, coarse = torch.zeros(1, dtype=torch.float64), []
        for inputs in _inputs(data, name, rows):
            if centred:
                total = total + inputs.double().sum(0)
            if model.ridge:
                coarse.append(model.ridge.features(name, inputs.to(device_of(model))).cpu())
        if centred:
            centred[0].centre.copy_(total / len(rows))
        if coarse:
            features[name] = torch.cat(coarse)
    measured: dict[int, float] = {}
    if model.ridge:
        model.ridge.set_moments(features, rows_of, data.baseline, data.target)
        measured = {mask: float(n) for mask, n in Counter(observed_masks(data.observed).tolist()).items()}
    exposure = Exposure(
        visits=0.0,
        observed=counts,
        imputed={},
        patterns={},
        expert_mass=torch.zeros(model.config.experts),
        measured=measured,
    )
    record = TrainingRecord(exposure, 0.0, len(data), behind=exposure)
    return with_clusters(record, set_clusters(model, model.clusters, data)) if model.clusters else record


@torch.no_grad()
def ridge_features(model: PerMMoE, data: VisitData) -> dict[str, Tensor]:
    """What the model's ridge sees of each modality that any visit has, on the CPU: a row for each visit that has it."""
    assert model.ridge
    return {
        name: torch.cat([model.ridge.features(name, x.to(device_of(model))).cpu() for x in _inputs(data, name, rows)])
        for name, rows in observed_rows(data).items()
        if len(rows)
    }


def observed_rows(data: VisitData) -> Mapping[str, Int[Tensor, " row"]]:
    """By modality: the visits that have it."""
    return {name: data.observed[:, column].nonzero().squeeze(1) for column, name in enumerate(data.names)}


def _inputs(data: VisitData, name: str, rows: Int[Tensor, " row"]) -> Iterator[Tensor]:
    """A modality's inputs, some visits at a time."""
    return (data.batch(some).inputs[name] for some in torch.split(rows, READ_AT_ONCE))
