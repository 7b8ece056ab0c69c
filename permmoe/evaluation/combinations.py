"""How a model is evaluated: on every modality combination, with the number of visits that have it.

A combination C is evaluated on all visits with C ⊆ P_i, the rest of their modalities withheld. Predictions are kept
as a [visit, combination] array, NaN where C is not a subset; every figure is made from such arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from permmoe.data.batch import Batch
from permmoe.data.dataset import VisitData
from permmoe.ensemble import Network
from permmoe.modality import all_combinations, combination_name
from permmoe.model import Encoded, Output
from permmoe.runtime.device_errors import LOG, ran_out_of_memory
from permmoe.runtime.devices import device_of

Array = np.ndarray

STRATA: Mapping[str, Callable[[Float[Array, " visit"], Float[Array, " visit"]], Bool[Array, " visit"]]] = {
    "all": lambda baseline, target: np.ones(len(target), dtype=bool),
    "small_change": lambda baseline, target: (target > 0) & (target <= 1),
    "severe_baseline": lambda baseline, target: baseline > 5,
}
"""The paper's strata, from baseline CDR-SB and its change, both in points."""

EVALUATION_BATCH = 256
"""Rows of one forward pass; a row is a visit with one of its combinations."""


@dataclass(frozen=True)
class ErrorSums:
    """Sums over visits from which RMSE, MAE and R² follow; sites send these, never single predictions."""

    n: int
    squared: float
    """Σ (prediction − target)², squared points."""
    absolute: float
    """Σ |prediction − target|, points."""
    target: float
    """Σ target, points."""
    target_squared: float
    """Σ target², squared points."""

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            self.n + other.n,
            self.squared + other.squared,
            self.absolute + other.absolute,
            self.target + other.target,
            self.target_squared + other.target_squared,
        )

    @property
    def rmse(self) -> float:
        """Root mean squared error, points; NaN for no visit."""
        return float(np.sqrt(self.squared / self.n)) if self.n else float("nan")

    @property
    def mae(self) -> float:
        """Mean absolute error, points; NaN for no visit."""
        return self.absolute / self.n if self.n else float("nan")

    @property
    def r2(self) -> float:
        """1 − squared error over the targets' own variation; NaN where they do not vary."""
        variation = self.target_squared - self.target**2 / self.n if self.n else 0.0
        return 1 - self.squared / variation if variation > 1e-9 else float("nan")


def error_sums(prediction: Float[Array, " visit"], target: Float[Array, " visit"]) -> ErrorSums:
    """Sums over the visits whose prediction and target are known (not NaN)."""
    known = ~np.isnan(prediction) & ~np.isnan(target)
    p, y = prediction[known], target[known]
    return ErrorSums(
        int(known.sum()),
        float(((p - y) ** 2).sum()),
        float(np.abs(p - y).sum()),
        float(y.sum()),
        float((y**2).sum()),
    )


def combination_predictions(model: Network, data: VisitData) -> Float[Array, "visit combination"]:
    """The change predicted for each visit from each combination, points; NaN where a modality of it is missing."""
    predictions = np.full((len(data), len(all_combinations(data.names))), np.nan)
    for visits, columns, output in combination_outputs(model, data):
        predictions[visits, columns] = output.prediction.double().cpu().numpy()
    return predictions


def combination_sums(model: Network, data: VisitData) -> dict[str, ErrorSums]:
    """Error sums by combination name, which federated evaluation adds up over sites."""
    predictions, target = combination_predictions(model, data), data.target.double().numpy()
    return {
        combination_name(c): error_sums(predictions[:, j], target) for j, c in enumerate(all_combinations(data.names))
    }


def mean_squared_error(sums: Mapping[str, ErrorSums]) -> float:
    """Squared error in squared points, averaged over the combinations that occur; NaN where none does."""
    errors = [s.squared / s.n for s in sums.values() if s.n]
    return float(np.mean(errors)) if errors else float("nan")


def combination_outputs(
    model: Network, data: VisitData
) -> Iterator[tuple[Int[Array, " row"], Int[Array, " row"], Output]]:
    """The outputs, in evaluation mode, for every visit with each combination that it has; rows of both come first.

    A visit's inputs are encoded once for all of its combinations, and a pass mixes combinations. Where a GPU's memory
    is too small for as many visits as the encoder declares, fewer are encoded at a time.
    """
    device = device_of(model)
    members = torch.tensor([[name in c for name in data.names] for c in all_combinations(data.names)])
    at_once = model.config.encoder.declaration.visits_at_once
    was_training = model.training
    model.eval()
    try:
        done = 0
        while done < len(data):
            visits = torch.arange(done, min(done + at_once, len(data)))
            encoded = _encoded(model, data.batch(visits), device)
            if encoded is None:
                at_once = -(-len(visits) // 2)
                LOG.warning("the GPU's memory does not hold %d visits: %d are judged at a time", len(visits), at_once)
                continue
            done += len(visits)
            has = (data.observed[visits, None] | ~members).all(2)
            for rows in torch.split(has.nonzero(), EVALUATION_BATCH):
                place, column = rows.unbind(1)
                with torch.no_grad():
                    output = model.fuse(encoded.keeping(place, members[column]))
                yield visits[place].numpy(), column.numpy(), output
    finally:
        model.train(was_training)


@torch.no_grad()
def _encoded(model: Network, batch: Batch, device: torch.device) -> Encoded | None:
    """The visits' tokens; None where several are too many for the device's memory."""
    try:
        return model.encode(batch.to(device))
    except RuntimeError as error:
        if len(batch.baseline) == 1 or not ran_out_of_memory(error):
            raise
        return None
