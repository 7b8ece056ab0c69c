"""Predictions: of one subject from voxels to points, and of 120 visits from all of their combinations."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from permmoe.config import ModelConfig
from permmoe.data.batch import Batch
from permmoe.data.dataset import VisitData
from permmoe.evaluation.combinations import combination_predictions
from permmoe.layers.encoders import fixed_stem
from permmoe.modality import all_combinations
from permmoe.model import Output, PerMMoE
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.inputs import half_missing_visits, model_config
from permmoe_benchmarks.library.own_process import Measurement
from permmoe_benchmarks.library.reference import ReferencePerMMoE
from permmoe_benchmarks.library.scale import Scale
from permmoe_benchmarks.library.timing import Figures, median_seconds

VISITS = 120


def subject_prediction(scale: Scale, encoder: Literal["pooled", "cnn"], *, is_reference: bool = False) -> Figures:
    """Return the seconds of one subject's prediction, from four volumes in memory to points, and the prediction."""
    config = model_config(scale, encoder)
    torch.manual_seed(0)
    volumes = {name: torch.randn(1, 1, *scale.grid).half() for name in config.names}
    model = make_model(config, 0).eval()
    module: nn.Module = ReferencePerMMoE.of(model).eval() if is_reference else model
    stem, observed = fixed_stem(config), torch.ones(1, 4, dtype=torch.bool)

    def forward() -> Tensor:
        inputs = {name: stem(volume).float() for name, volume in volumes.items()}
        output: Output = module(Batch(inputs, observed, torch.ones(1), torch.ones(1)))
        return output.prediction

    with torch.no_grad():
        return {"seconds": median_seconds(forward), "prediction": forward().tolist()}


def combination_evaluation(scale: Scale, *, is_one_by_one: bool) -> Figures:
    """Return the seconds of the default model's predictions for 120 visits from all of their combinations.

    They are made as an evaluation makes them, or in a pass for each combination.
    """
    config = ModelConfig()
    data = half_missing_visits(config, VISITS)
    model = make_model(config, 0).eval()

    def predicted() -> Float[np.ndarray, "visit combination"]:
        return predict_one_by_one(model, data) if is_one_by_one else combination_predictions(model, data)

    with torch.no_grad():
        predictions = predicted()
        return {"seconds": median_seconds(predicted, 9), "prediction": predictions[~np.isnan(predictions)].tolist()}


def predict_one_by_one(model: PerMMoE, data: VisitData) -> Float[np.ndarray, "visit combination"]:
    """Each visit's prediction from each combination that it has, points; NaN where it lacks a modality of it."""
    combinations = all_combinations(data.names)
    predictions = np.full((len(data), len(combinations)), np.nan)
    for column, combination in enumerate(combinations):
        wanted = torch.tensor([name in combination for name in data.names])
        rows = (data.observed | ~wanted).all(1).nonzero().squeeze(1)
        if len(rows):
            batch = data.batch(rows, (~wanted).expand(len(rows), -1))
            predictions[rows.numpy(), column] = model(batch).prediction.double().numpy()
    return predictions


SIDES = {
    "evaluation": Measurement(combination_evaluation, {"is_one_by_one": False}),
    "evaluation_one_by_one": Measurement(combination_evaluation, {"is_one_by_one": True}),
    "predict_default": Measurement(subject_prediction, {"encoder": "pooled"}),
    "predict_cnn": Measurement(subject_prediction, {"encoder": "cnn"}),
    "predict_reference": Measurement(subject_prediction, {"encoder": "cnn", "is_reference": True}),
}
