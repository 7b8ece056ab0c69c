"""The reasons of one prediction: what each modality adds, and where in the scans it comes from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from permmoe.calibration.calibration import change_bounds
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.data.outcomes import Outcomes
from permmoe.data.visits import Visit, VisitTable
from permmoe.explanation.modalities import Added, Expected, added
from permmoe.explanation.places import Places, places
from permmoe.layers.encoders import fixed_stem
from permmoe.layers.moments import EVERYBODY
from permmoe.predict import Prediction, TrainedModel

MEAN_CHANGE = "the mean change of the model's training patients"
NO_CHANGE = "no change"
"""What a prediction is compared with where nothing tells how the training's patients changed."""


@dataclass(frozen=True)
class Reasons:
    """Why one visit's prediction is what it is."""

    added: Added
    reference: str
    """What `added.expected` is, in words."""
    places: Places | None
    """None where the model's encoder holds no average scan to compare with."""


def explain(
    model: TrainedModel, visit: Visit, prediction: Prediction, cache: VolumeCache, outcomes: Outcomes | None = None
) -> Reasons:
    """The reasons of a prediction that `permmoe.predict.predict` made for this visit, through the same cache.

    `outcomes`: the training's, as the model's card has them. Raises ConfigurationError for a visit with more modalities
    than reasons can be given for.
    """
    network, config = model.network, model.config
    table = VisitTable((visit.with_only(prediction.used),))
    data, _ = VisitData.load(table, config, cache, stem=fixed_stem(config))
    batch = data.batch(torch.tensor([0]))
    low, high = change_bounds(visit.baseline_cdrsb, config)

    def held(changes: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        return changes.clamp(low, high)

    def held_for(change: float, score: float) -> float:
        least, most = change_bounds(score, config)
        return min(max(change, least), most)

    with torch.no_grad():
        encoded = network.encode(batch)
    expected, mean_score, reference = expectation(model, visit.baseline_cdrsb, outcomes)
    return Reasons(added(network, encoded, expected, mean_score, held_for), reference, places(network, batch, held))


def expectation(model: TrainedModel, score: float, outcomes: Outcomes | None) -> tuple[Expected, float, str]:
    """What is expected of a visit by its score alone, the mean score, and what that expectation is in words."""
    if outcomes is not None:
        return outcomes.expected, outcomes.mean_score, MEAN_CHANGE
    if model.network.ridge is not None:
        # The ridge's moments of all training visits are the same line, a federated model's too.
        alone = model.network.ridge.weights(0)
        mean_score = float(model.network.ridge.get_parameter(f"moments.{EVERYBODY}.left")[0])
        return lambda own: alone.intercept + alone.baseline * own, mean_score, MEAN_CHANGE
    return lambda own: 0.0, score, NO_CHANGE
