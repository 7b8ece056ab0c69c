"""Late fusion: a model for each modality by itself, and for every combination a weighted mean of what they predict.

A modality's weight is one over its model's squared error on validation visits: the combination of forecasts of Bates
and Granger (1969) with errors taken as uncorrelated, which with few visits errs less than weights from estimated
covariances (Timmermann 2006, section 2). A federation needs a sum of squared errors and a count for it, which sites
send anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from permmoe.data.visits import VisitTable
from permmoe.evaluation.combinations import error_sums
from permmoe.modality import all_combinations
from permmoe_simulation.studies.cell_files import Predicted
from permmoe_simulation.studies.partition import Sites
from permmoe_simulation.studies.study import Cell


@dataclass(frozen=True)
class OneModality:
    """What the model of one modality predicts of the visits that have it, as [visit, 1]."""

    test: Predicted
    validation: Predicted


def cell_of_modality(cell: Cell, name: str) -> Cell:
    """The cell of one modality's model."""
    modalities = tuple(modality for modality in cell.model.modalities if modality.name == name)
    model = cell.model.model_copy(update={"modalities": modalities})
    return cell.model_copy(update={"model": model, "modalities": (name,)})


def sites_with(sites: Sites, name: str) -> Sites:
    """The visits that have the modality, at the sites that have any."""
    own = {site: table.where(lambda visit: bool(visit.observed([name]))) for site, table in sites.items()}
    return {site: table for site, table in own.items() if len(table)}


def weight(validation: Predicted) -> float:
    """One over the squared error on validation visits, 1/points²; 0 where there is none to tell it from."""
    targets = np.array([np.nan if v.delta_cdrsb is None else v.delta_cdrsb for v in validation.visits], dtype=float)
    sums = error_sums(validation.predictions[:, 0], targets)
    return sums.n / sums.squared if sums.squared else 0.0


def fused(
    visits: VisitTable, names: tuple[str, ...], models: Mapping[str, Predicted], weights: Mapping[str, float]
) -> Predicted:
    """The weighted means for these visits, with every combination that each has.

    A modality without a model has no say, and where no weight of a combination is known its models count alike. There
    is no prediction where no modality of the combination has a model.
    """
    row_of = {visit.subject_id: row for row, visit in enumerate(visits)}
    single = np.full((len(visits), len(names)), np.nan)
    for name, found in models.items():
        rows = [row_of[visit.subject_id] for visit in found.visits]
        single[rows, names.index(name)] = found.predictions[:, 0]
    has = np.array([[name in visit.observed(names) for name in names] for visit in visits], dtype=bool)
    combinations = all_combinations(names)
    predictions = np.full((len(visits), len(combinations)), np.nan)
    for column, combination in enumerate(combinations):
        able = [name for name in combination if name in models]
        own = np.array([weights[name] for name in able])
        if not able or not len(visits):
            continue
        mean = np.average(single[:, [names.index(name) for name in able]], axis=1, weights=own if own.any() else None)
        is_complete = has[:, [names.index(name) for name in combination]].all(1)
        predictions[is_complete, column] = mean[is_complete]
    return Predicted(visits, predictions)
