"""How a federation forgets, as a kind of method: trained anew without whoever withdrew, or trained on without them."""

from __future__ import annotations

import shutil
from pathlib import Path

from permmoe.data.cache import VolumeCache
from permmoe.model import PerMMoE
from permmoe_simulation.engines.federated_training import TrainedFederation, train_federation
from permmoe_simulation.studies.cell_files import FEDERATION, CellOutcome
from permmoe_simulation.studies.forgotten import forgotten, trained_by_site, without
from permmoe_simulation.studies.method_runners import joined, loaded, predicted_of, require_federable
from permmoe_simulation.studies.partition import Sites
from permmoe_simulation.studies.study import Cell


def run_forgetting(cell: Cell, sites: Sites, cache: VolumeCache, folder: Path, device: str) -> CellOutcome:
    """The model after a withdrawal, judged on all test visits, and what it predicts of everybody who ever trained."""
    require_federable(cell.model, sites)
    forgets = cell.method.forgets
    assert forgets
    gone = forgotten(trained_by_site(sites), forgets.who, cell.seed)
    left = without(sites, gone, forgets.who)
    trained = _trained(cell, sites, left, cache, folder / FEDERATION, device)
    model = PerMMoE(cell.model)
    model.load_state_dict(dict(trained.weights))
    model.to(device)
    data = loaded(joined(sites), cell.model, cache)
    tested, validated, seen = (predicted_of(model, data.part(part)) for part in ("test", "validation", "train"))
    return CellOutcome(
        tested.visits,
        tested.predictions,
        rounds=trained.rounds,
        privacy=trained.privacy,
        calibration=validated,
        trained=seen,
        withdrew=frozenset(subject for of_site in gone.values() for subject in of_site),
    )


def _trained(cell: Cell, sites: Sites, left: Sites, cache: VolumeCache, folder: Path, device: str) -> TrainedFederation:
    """The federation behind its last round. `rounds` are those that forgetting cost, or all where nobody withdrew."""
    forgets = cell.method.forgets
    assert forgets
    if not forgets.continued_rounds:
        return train_federation(cell, left, cache.folder, folder / "anew", device)
    before, after = folder / "before", folder / "after"
    train_federation(cell, sites, cache.folder, before, device)
    # Beside the first one, so that no site takes its old visits for the new ones.
    if not after.exists():
        shutil.copytree(before / "server", after / "server")
    rounds = cell.federation.rounds
    longer = cell.federation.model_copy(update={"rounds": rounds + forgets.continued_rounds})
    found = train_federation(cell.model_copy(update={"federation": longer}), left, cache.folder, after, device)
    return TrainedFederation(
        found.weights,
        found.evaluations,
        [row for row in found.rounds if row["round"] > rounds],
        found.private,
        found.privacy,
    )
