"""What a method predicts whose training had no visit with some of the modalities: by the rest of each combination."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from permmoe.data.dataset import VisitData
from permmoe.modality import all_combinations
from permmoe_simulation.studies.cell_files import Matrix


def without(data: VisitData, withheld: Sequence[str]) -> VisitData:
    """The visits as if these modalities had not been collected; all of them, where none is withheld."""
    if not withheld:
        return data
    kept = torch.tensor([name not in withheld for name in data.names])
    return data.limited(data.observed & kept)


def from_the_rest(own: Matrix, train: VisitData, test: VisitData, otherwise: float) -> Matrix:
    """In the place of each combination's numbers those of what the training visits have of it; `otherwise`, where they
    have nothing of it. What a visit lacks stays NaN."""
    trained = {name for name, n in zip(train.names, train.observed.sum(0).tolist(), strict=True) if n}
    combinations = all_combinations(test.names)
    usable = [tuple(name for name in combination if name in trained) for combination in combinations]
    instead = [own[:, combinations.index(c)] if c else np.full(len(test), otherwise) for c in usable]
    return np.where(np.isnan(own), np.nan, np.stack(instead, axis=1))


def mean_change(train: VisitData) -> float:
    """Of the training visits, at the horizon of the table; a model that is told the horizon trains on others, too."""
    return float(train.target[~train.target.isnan()].double().mean())
