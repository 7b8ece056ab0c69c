"""What every study that is shipped has to do, whatever it asks."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from permmoe.config import read_config
from permmoe_simulation.studies.ladder import RUNGS
from permmoe_simulation.studies.study import Cell, StudyConfig, at_profile, cells

FOLDER = Path(__file__).parents[3] / "configs" / "studies"
NO_COMPARISON = {"federation-demo"}
"""A federation that is shown, not a study that compares methods."""
FOR_BITS = {"every-variant"}
"""Its tables say nothing of what is better: no method of it is held against anything."""
SEARCHES = {"recipe-search"}
"""Its methods are recipes, held against other recipes of the same method; no clinical reference has one."""
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.stem not in NO_COMPARISON)


@cache
def sizes(path: Path) -> list[StudyConfig]:
    """The study itself and as each of its profiles runs it."""
    study = read_config(path, StudyConfig)
    return [study, *(at_profile(study, name) for name in study.profiles)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_study_of_patients_with_clinical_columns_has_the_ladder_in_every_profile(path: Path) -> None:
    """Planted patients have no clinical columns, and those of public tables are the modalities."""
    for study in sizes(path):
        has_columns = study.data.planted is None and study.data.table is None and path.stem not in FOR_BITS | SEARCHES
        assert (study.ladder is not None) == has_columns
        if has_columns:
            assert set(RUNGS) <= set(study.methods) and study.ladder_pairs


def counterpart(shared: Cell, others: dict[str, Cell]) -> str | None:
    """The method that is trained in the same way in everything but its routers."""
    model = shared.model.model_copy(update={"routers": "per_modality"})
    for name, cell in others.items():
        own = cell.method.model_copy(update={"model": {}, "label": "", "description": ""})
        same = shared.method.model_copy(update={"model": {}, "label": "", "description": ""})
        if (own, cell.model, cell.train, cell.federation) == (same, model, shared.train, shared.federation):
            return name
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_wherever_a_shared_router_is_compared_there_is_a_method_that_differs_in_the_router_alone(path: Path) -> None:
    """Its balance over all modalities together would be a second difference: each modality's is balanced by itself."""
    for study in sizes(path):
        one = study.model_copy(update={"seeds": study.seeds[:1]})
        own = dict(cells(one, dict.fromkeys(study.regimes, ""), "inprocess"))
        compared = {name for pair in study.pairs for name in pair}
        for name in (name for name in compared if own[name].model.routers == "shared"):
            assert counterpart(own[name], own) is not None, f"{study.name}: {name} differs in more than the router"
            assert own[name].train.routing_losses.balance_pool == "modality", f"{study.name}: {name}"
