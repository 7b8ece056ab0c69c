"""The change in CDR-SB predicted for visits that a trained model has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from permmoe.config import CDR_SB, CDRSB_CHANGE, ModelConfig, parse_config
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.data.kinds import kind_of
from permmoe.data.likeness import Likeness
from permmoe.data.preparation import with_matching_images
from permmoe.data.quarantine import Quarantine
from permmoe.data.unlike import compare
from permmoe.data.visits import VisitTable
from permmoe.errors import DataError
from permmoe.layers.encoders import fixed_stem
from permmoe.modality import Combination
from permmoe.model import PerMMoE
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe.runtime.checkpoint_card import says_synthetic

RESEARCH_NOTICE = "Research software: not a medical device, not validated for clinical decisions."
SYNTHETIC_NOTICE = "SYNTHETIC: the model was trained on invented patients; its predictions say nothing about patients."


@dataclass(frozen=True)
class PredictionInterval:
    """Where the change lies with a probability that calibration visits vouch for; inside the score's scale."""

    level: float
    """Nominal coverage: of new visits like the calibration's, the share whose change lies inside."""
    low: float
    high: float
    """Points."""
    visits: int
    """Calibration visits behind it."""
    sites: int
    """Hospitals that these visits come from."""
    basis: str
    """`combination` where they have this combination of modalities, `pooled` where too few do and all stand in."""


@dataclass(frozen=True)
class Prediction:
    """One visit's prediction."""

    subject_id: str
    delta_cdrsb: float
    """Predicted change in CDR-SB at the model's horizon, points; with the CDR-SB of the visit it is from 0 to 18."""
    used: Combination
    imputed: Combination
    """Modalities that the missing bank stood in for."""
    unlike_training: Combination = ()
    """Modalities whose image was used though it is unlike the training's."""
    intervals: tuple[PredictionInterval, ...] = ()
    """Narrowest first; none where the model's card holds no calibration."""


@dataclass(frozen=True)
class TrainedModel:
    """A model in evaluation mode, and what its card says beside its weights."""

    network: PerMMoE
    usual: Mapping[str, Likeness] = field(default_factory=dict)
    """What is usual among the training images, by modality, as far as the card says."""
    is_synthetic: bool = False
    """Whether it was trained on invented patients."""

    @property
    def config(self) -> ModelConfig:
        """The model's settings."""
        return self.network.config

    @property
    def unknown(self) -> Combination:
        """The modalities of images that cannot be compared with the training's: the card says nothing of those."""
        return tuple(m.name for m in self.config.modalities if kind_of(m).is_image and m.name not in self.usual)


def load_model(folder: Path) -> TrainedModel:
    """The model of a checkpoint folder, in evaluation mode. Raises PermmoeError where it cannot be used."""
    state, card = load_checkpoint(folder)
    source = f"the model card in {folder}"
    model = PerMMoE(parse_config(card.get("model", {}), ModelConfig, source))
    try:
        model.load_state_dict(dict(state))
    except RuntimeError:
        raise DataError(f"{folder} does not hold the weights of one model; name a run's folder 'model'") from None
    return TrainedModel(model.eval(), _usual(card, source), says_synthetic(card))


def predict(
    model: TrainedModel, visits: VisitTable, cache: VolumeCache, *, are_trusted: bool = False
) -> tuple[list[Prediction], Quarantine]:
    """Predict every visit from all that it has.

    Broken inputs, images that were prepared in another way than the training's, and images of another kind are
    quarantined; their visit goes on without them. `are_trusted`: somebody vouches for images of which nothing says how
    they were prepared. A change is held where the score at the horizon, the score at the visit plus the change, lies on
    the score's scale.
    """
    network, config = model.network, model.config
    visits, unlike_prepared = with_matching_images(visits, config.modalities, are_trusted=are_trusted)
    compared = compare(visits, config.modalities, config.grid, cache, model.usual)
    data, broken = VisitData.load(compared.visits, config, cache, stem=fixed_stem(config))
    predictions: list[Prediction] = []
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(data)), config.encoder.declaration.visits_at_once):
            points = network(data.batch(rows)).prediction.tolist() if len(rows) else []
            for row, value in zip(rows.tolist(), points, strict=True):
                visit, seen = data.visits.visits[row], data.observed[row].tolist()
                used = tuple(name for name, has in zip(data.names, seen, strict=True) if has)
                imputed = tuple(name for name, has in zip(data.names, seen, strict=True) if not has)
                unlike = tuple(name for name in compared.unusual[visit.subject_id] if name in used)
                change = _on_the_scale(value, visit.baseline_cdrsb, config)
                predictions.append(Prediction(visit.subject_id, change, used, imputed, unlike))
    return predictions, unlike_prepared + compared.left_out + broken


def _on_the_scale(change: float, baseline: float, config: ModelConfig) -> float:
    """The change nearest to the predicted one that does not leave the scale; any change where no scale is declared."""
    if config.score == CDR_SB and config.outcome_range != CDRSB_CHANGE:
        return change  # An outcome that is no change in CDR-SB, of a study that declares no score.
    low, high = config.score.bounds
    return min(max(change, low - baseline), high - baseline)


def _usual(card: Mapping[str, Any], source: str) -> dict[str, Likeness]:
    return {name: parse_config(values, Likeness, source) for name, values in card.get("usual_images", {}).items()}
