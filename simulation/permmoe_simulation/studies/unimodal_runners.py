"""How methods whose models have a modality each run a cell (permmoe_simulation.studies.method_kinds names these)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import fit_scaling
from permmoe.modality import all_combinations
from permmoe.model import PerMMoE
from permmoe.training.fit import fit
from permmoe.training.seeds import make_model
from permmoe_simulation.engines.federated_training import TrainedFederation, train_federation
from permmoe_simulation.studies.cell_files import FEDERATION, CellOutcome
from permmoe_simulation.studies.late_fusion import OneModality, cell_of_modality, fused, sites_with, weight
from permmoe_simulation.studies.members import added_costs
from permmoe_simulation.studies.method_runners import joined, loaded, predicted_of, require_federable
from permmoe_simulation.studies.partition import Sites, training_sites
from permmoe_simulation.studies.study import Cell


def run_unimodal(cell: Cell, sites: Sites, cache: VolumeCache, folder: Path, device: str) -> CellOutcome:
    """A model for each modality by itself, all visits in one place; combinations of several have no prediction."""
    test = loaded(joined(sites), cell.model, cache).part("test").visits
    row_of = {visit.subject_id: row for row, visit in enumerate(test)}
    predictions = np.full((len(test), len(all_combinations(cell.model.names))), np.nan)
    for name, model in _in_one_place(cell, sites, cache, device).items():
        rows = [row_of[visit.subject_id] for visit in model.test.visits]
        predictions[rows, cell.model.names.index(name)] = model.test.predictions[:, 0]
    return CellOutcome(test, predictions)


def run_late_fusion(cell: Cell, sites: Sites, cache: VolumeCache, folder: Path, device: str) -> CellOutcome:
    """The same models, and for every combination the weighted mean of what they predict."""
    return _fused(cell, sites, cache, _in_one_place(cell, sites, cache, device))


def run_federated_late_fusion(cell: Cell, sites: Sites, cache: VolumeCache, folder: Path, device: str) -> CellOutcome:
    """The same, each modality's model federated over the sites that have it. What it costs is what all of them do."""
    require_federable(cell.model, sites)
    models: dict[str, OneModality] = {}
    federations: list[TrainedFederation] = []
    for name in cell.model.names:
        own, of_modality = sites_with(sites, name), cell_of_modality(cell, name)
        if not training_sites(own):
            continue
        federation = train_federation(of_modality, own, cache.folder, folder / FEDERATION / name, device)
        model = PerMMoE(of_modality.model)
        model.load_state_dict(dict(federation.weights))
        models[name] = _predicting(model.to(device), of_modality, own, cache)
        federations.append(federation)
    privacy = {row["site"]: row for federation in federations for row in federation.privacy}
    outcome = _fused(cell, sites, cache, models)
    return CellOutcome(
        outcome.test,
        outcome.predictions,
        rounds=added_costs([federation.rounds for federation in federations]),
        privacy=list(privacy.values()),
        calibration=outcome.calibration,
    )


def _in_one_place(cell: Cell, sites: Sites, cache: VolumeCache, device: str) -> dict[str, OneModality]:
    """The models of the modalities that training visits have."""
    found: dict[str, OneModality] = {}
    for name in cell.model.names:
        config = cell_of_modality(cell, name).model
        data = loaded(joined(sites), config, cache)
        train = data.part("train")
        if not len(train):
            continue
        model = make_model(fit_scaling(train, config), cell.train.seed).to(device)
        fit(model, train, data.part("validation"), cell.train, scans=data.scans())
        found[name] = OneModality(predicted_of(model, data.part("test")), predicted_of(model, data.part("validation")))
    return found


def _predicting(model: PerMMoE, cell: Cell, sites: Sites, cache: VolumeCache) -> OneModality:
    data = loaded(joined(sites), cell.model, cache)
    return OneModality(predicted_of(model, data.part("test")), predicted_of(model, data.part("validation")))


def _fused(cell: Cell, sites: Sites, cache: VolumeCache, models: Mapping[str, OneModality]) -> CellOutcome:
    names, data = cell.model.names, loaded(joined(sites), cell.model, cache)
    weights = {name: weight(model.validation) for name, model in models.items()}
    test = fused(data.part("test").visits, names, {n: model.test for n, model in models.items()}, weights)
    validation = fused(
        data.part("validation").visits, names, {n: model.validation for n, model in models.items()}, weights
    )
    return CellOutcome(test.visits, test.predictions, calibration=validation)
