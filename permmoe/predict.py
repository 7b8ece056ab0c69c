"""The change in CDR-SB predicted for visits that a trained model has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from permmoe.config import ModelConfig, parse_config
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.data.quarantine import Quarantine
from permmoe.data.visits import VisitTable
from permmoe.errors import DataError
from permmoe.layers.encoders import fixed_stem
from permmoe.modality import Combination
from permmoe.model import PerMMoE
from permmoe.runtime.checkpoint import load_checkpoint

RESEARCH_NOTICE = "Research software: not a medical device, not validated for clinical decisions."


@dataclass(frozen=True)
class Prediction:
    """One visit's prediction."""

    subject_id: str
    delta_cdrsb: float
    """Predicted change in CDR-SB at the model's horizon, points."""
    used: Combination
    imputed: Combination
    """Modalities that the missing bank stood in for."""


def load_model(folder: Path) -> PerMMoE:
    """The model of a checkpoint folder, in evaluation mode. Raises PermmoeError where it cannot be used."""
    state, card = load_checkpoint(folder)
    model = PerMMoE(parse_config(card.get("model", {}), ModelConfig, f"the model card in {folder}"))
    try:
        model.load_state_dict(dict(state))
    except RuntimeError:
        raise DataError(f"{folder} does not hold the weights of one model; name a run's folder 'model'") from None
    return model.eval()


def predict(model: PerMMoE, visits: VisitTable, cache: VolumeCache) -> tuple[list[Prediction], Quarantine]:
    """Predict every visit from all that it has; broken inputs are quarantined, their visit goes on without them."""
    data, quarantine = VisitData.load(visits, model.config, cache, stem=fixed_stem(model.config))
    predictions: list[Prediction] = []
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(data)), model.config.encoder.declaration.visits_at_once):
            points = model(data.batch(rows)).prediction.tolist() if len(rows) else []
            for row, value in zip(rows.tolist(), points, strict=True):
                seen = data.observed[row].tolist()
                used = tuple(name for name, has in zip(data.names, seen, strict=True) if has)
                imputed = tuple(name for name, has in zip(data.names, seen, strict=True) if not has)
                predictions.append(Prediction(data.visits.visits[row].subject_id, value, used, imputed))
    return predictions, quarantine
