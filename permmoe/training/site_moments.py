"""What a site tells of its scanners before anything is trained: the moments of a harmonisation (permmoe.layers)."""

from __future__ import annotations

import torch

from permmoe.data.dataset import VisitData
from permmoe.evaluation.harmonised import cannot_be_told, covariates_of, values_of
from permmoe.model import PerMMoE
from permmoe.training.exposure import Exposure, TrainingRecord


@torch.no_grad()
def set_site_moments(model: PerMMoE, data: VisitData) -> TrainingRecord:
    """Set the moments of every modality that these visits tell of; the others stay.

    The record's exposure says how many visits each is a mean over, so that a federation weights the sites' by them.
    """
    assert model.harmonisation
    counts: dict[str, float] = {}
    for name in data.names:
        if cannot_be_told(model.harmonisation, data, name):
            continue
        values = values_of(model.harmonisation, data, name)
        covariates = covariates_of(model.harmonisation, data, name)
        model.harmonisation.moments_of(name).set_from(values, covariates)
        counts[name] = float(len(values))
    exposure = Exposure(
        visits=0.0, observed={}, imputed={}, patterns={}, expert_mass=torch.zeros(model.config.experts), scanned=counts
    )
    return TrainingRecord(exposure, 0.0, len(data), behind=exposure)
