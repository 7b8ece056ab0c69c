"""The change in CDR-SB predicted for visits that a trained model has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from permmoe.calibration.calibration import Calibration, change_bounds, intervals_of, read_calibration
from permmoe.calibration.intervals import PredictionInterval
from permmoe.calibration.next_scan import NextScan, next_scans
from permmoe.calibration.read_alike import require_read_alike
from permmoe.calibration.score_counts import ScoreCounts
from permmoe.config import ModelConfig, parse_config
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.data.kinds import kind_of
from permmoe.data.likeness import Likeness
from permmoe.data.preparation import with_matching_images
from permmoe.data.quarantine import Quarantine
from permmoe.data.unlike import compare
from permmoe.data.visits import VisitTable
from permmoe.ensemble import Network, empty_network, members_of
from permmoe.errors import DataError
from permmoe.evaluation.harmonised import as_read
from permmoe.layers.encoders import fixed_stem
from permmoe.modality import Combination
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe.runtime.checkpoint_card import says_synthetic

__all__ = ["Prediction", "PredictionInterval", "TrainedModel", "load_model", "predict"]

RESEARCH_NOTICE = "Research software: not a medical device, not validated for clinical decisions."
SYNTHETIC_NOTICE = "SYNTHETIC: the model was trained on invented patients; its predictions say nothing about patients."


@dataclass(frozen=True)
class Prediction:
    """One visit's prediction."""

    subject_id: str
    delta_cdrsb: float
    """Predicted change in CDR-SB at the model's horizon, points; with the CDR-SB of the visit it is from 0 to 18."""
    used: Combination
    imputed: Combination
    """Modalities that the visit lacks; the missing bank stood in for them, where the model has one."""
    unlike_training: Combination = ()
    """Modalities whose image was used though it is unlike the training's."""
    intervals: tuple[PredictionInterval, ...] = ()
    """Narrowest first; none where the model's card holds no calibration."""
    next_scans: tuple[NextScan, ...] = ()
    """What each scan that the visit lacks would bring, the most narrowing first; none without a calibration."""
    by_member: tuple[float, ...] = ()
    """What each member of an ensemble predicts, whose mean the prediction is, points; none of a single model."""
    as_scanned: Mapping[str, str] = field(default_factory=dict)
    """Of a model that reads harmonised images: why a modality was read as its scanner wrote it, in words."""
    outside_calibration: tuple[str, ...] = ()
    """In words, what of the visit lies beyond the calibration's visits: its intervals may hold less often."""


@dataclass(frozen=True)
class TrainedModel:
    """A model in evaluation mode, and what its card says beside its weights."""

    network: Network
    usual: Mapping[str, Likeness] = field(default_factory=dict)
    """What is usual among the training images, by modality, as far as the card says."""
    is_synthetic: bool = False
    """Whether it was trained on invented patients."""
    calibration: Calibration | None = None
    """How wrong it was on calibration visits; None where the card does not say."""

    @property
    def config(self) -> ModelConfig:
        """The model's settings."""
        return self.network.config

    @cached_property
    def score_counts(self) -> ScoreCounts | None:
        """The calibration's counts. Raises DataError where they are of other modalities."""
        return self.calibration.counts(self.config.names) if self.calibration else None

    @property
    def unknown(self) -> Combination:
        """The modalities of images that cannot be compared with the training's: the card says nothing of those."""
        return tuple(m.name for m in self.config.modalities if kind_of(m).is_image and m.name not in self.usual)

    def as_read(self, data: VisitData) -> tuple[VisitData, Mapping[str, Mapping[str, str]]]:
        """Visits as the network reads them, and by hospital why modalities are read as they were scanned.

        Raises ConfigurationError where a hospital calibrated the model on images that were read otherwise.
        """
        own = self.calibration.own_patients if self.calibration else None
        # Its hospital's patients trained nothing, whatever part of a split they are in.
        found, as_scanned = as_read(self.network, data, nobody_trained=own is not None)
        if own:
            for site, reasons in as_scanned.items():
                here = data.observed[torch.tensor([visit.site == site for visit in data.visits])].any(0).tolist()
                require_read_alike(own, [n for n, has in zip(data.names, here, strict=True) if has], reasons)
        return found, as_scanned


def load_model(folder: Path) -> TrainedModel:
    """The model of a checkpoint folder, in evaluation mode. Raises PermmoeError where it cannot be used."""
    state, card = load_checkpoint(folder)
    source = f"the model card in {folder}"
    model = empty_network(parse_config(card.get("model", {}), ModelConfig, source), members_of(card, source))
    try:
        model.load_state_dict(dict(state))
    except RuntimeError:
        raise DataError(f"{folder} does not hold its card's model; name a run's folder 'model'") from None
    return TrainedModel(model.eval(), _usual(card, source), says_synthetic(card), read_calibration(card, source))


def predict(
    model: TrainedModel, visits: VisitTable, cache: VolumeCache, *, are_trusted: bool = False
) -> tuple[list[Prediction], Quarantine]:
    """Predict every visit from all that it has.

    Broken inputs, images that were prepared in another way than the training's, and images of another kind are
    quarantined; their visit goes on without them. `are_trusted`: somebody vouches for images of which nothing says how
    they were prepared. Images of a hospital are harmonised together, where the model reads harmonised ones. A change is
    held where the score at the horizon, the score at the visit plus the change, lies on
    the score's scale.

    Raises ConfigurationError as `TrainedModel.as_read`.
    """
    network, config = model.network, model.config
    visits, unlike_prepared = with_matching_images(visits, config.modalities, are_trusted=are_trusted)
    compared = compare(visits, config.modalities, config.grid, cache, model.usual)
    data, broken = VisitData.load(compared.visits, config, cache, stem=fixed_stem(config))
    data, as_scanned = model.as_read(data)
    predictions: list[Prediction] = []
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(data)), config.encoder.declaration.visits_at_once):
            if not len(rows):
                continue
            output = network(data.batch(rows))
            spreads = [None] * len(rows) if output.spread is None else output.spread.tolist()
            members = [()] * len(rows) if output.by_member is None else output.by_member.tolist()
            for row, value, spread, by_member in zip(
                rows.tolist(), output.prediction.tolist(), spreads, members, strict=True
            ):
                visit, seen = data.visits.visits[row], data.observed[row].tolist()
                used = tuple(name for name, has in zip(data.names, seen, strict=True) if has)
                imputed = tuple(name for name, has in zip(data.names, seen, strict=True) if not has)
                unlike = tuple(name for name in compared.unusual[visit.subject_id] if name in used)
                low, high = change_bounds(visit.baseline_cdrsb, config)
                held = tuple(min(max(one, low), high) for one in by_member)
                found = Prediction(
                    visit.subject_id, min(max(value, low), high), used, imputed, unlike, by_member=held,
                    as_scanned={name: why for name, why in as_scanned.get(visit.site, {}).items() if name in used},
                )  # fmt: skip
                predictions.append(_with_intervals(found, model, visit.baseline_cdrsb, spread))
    return predictions, unlike_prepared + compared.left_out + broken


def _with_intervals(found: Prediction, model: TrainedModel, baseline: float, spread: float | None) -> Prediction:
    """The prediction with its intervals, and what of it lies beyond the visits that they are from."""
    calibration, counts = model.calibration, model.score_counts
    if calibration is None or counts is None:
        return found
    intervals = intervals_of(
        calibration, counts, model.config, combination=found.used, baseline=baseline, change=found.delta_cdrsb,
        spread=spread,
    )  # fmt: skip
    scale = calibration.unit_points if calibration.scale == "unit" or spread is None else spread
    scans = next_scans(calibration.added, counts, found.used, calibration.severity(baseline), scale)
    outside = [*calibration.outside(baseline, found.delta_cdrsb)]
    if not counts.n(found.used):
        outside.insert(0, f"nobody there has just {' and '.join(found.used)} to predict from")
    outside += [f"the image of {name} is unlike the training's" for name in found.unlike_training]
    return replace(found, intervals=intervals, next_scans=scans, outside_calibration=tuple(outside))


def _usual(card: Mapping[str, Any], source: str) -> dict[str, Likeness]:
    return {name: parse_config(values, Likeness, source) for name, values in card.get("usual_images", {}).items()}
