"""What every study that is shipped has to do, whatever it asks."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from permmoe.config import TrainConfig, read_config
from permmoe_simulation.report.looks import read_looks
from permmoe_simulation.studies.ladder import RUNGS
from permmoe_simulation.studies.study import Cell, StudyConfig, at_profile, cells, data_source

FOLDER = Path(__file__).parents[3] / "configs" / "studies"
NO_COMPARISON = {"federation-demo"}
"""A federation that is shown, not a study that compares methods."""
FOR_BITS = {"every-variant"}
"""Its tables say nothing of what is better: no method of it is held against anything."""
SEARCHES = {
    "recipe-search": "recipes.md",
    "recipe-search-rivals": "recipes-rivals.md",
    "recipe-search-rivals-2": "recipes-rivals-2.md",
    "recipe-search-combined": "recipes-combined.md",
}
"""Their methods are recipes, held against other recipes of the same method; no clinical reference has one. Each has a
page in docs/ that says what it chose."""
CHOICES = set(SEARCHES) | {"new-hospital-choice", "costs"}
"""What chooses or times something on cohorts of development, for no report."""
SEVERAL_COHORTS = {"one-model": 3}
"""Studies of one question on more than one cohort, and of how many."""
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
        has_columns = study.data.planted is None and study.data.table is None and path.stem not in FOR_BITS | CHOICES
        assert (study.ladder is not None) == has_columns
        if has_columns:
            assert set(RUNGS) <= set(study.methods) and study.ladder_pairs


RECIPE = ("learning_rate", "weight_decay", "averaging_decay", "keep", "modality_dropout")
"""What the search of recipes varies, but for epochs, which some profiles cut for everybody."""
OF_RIVALS = ("masked", "translator", "fusemoe", "clusmfl")
TRAINED_AS = {
    f"{prefix}{method}": method
    for method in ("permmoe", "flexmoe", "ridge-permmoe", "unimodal", *OF_RIVALS)
    for prefix in ("", "federated-", "centralised-", "local-", "zero-fill-")
} | {"late-fusion": "unimodal", "federated-late-fusion": "unimodal", "combined": "combined"}
"""The search's name of a method, by what studies call it."""
ONE_RECIPE = {"known-truth"}
"""Nothing is gained by routing there, so its methods are to differ in nothing else."""


def recipe(train: TrainConfig) -> dict[str, Any]:
    return {name: getattr(train, name) for name in RECIPE}


def chosen() -> dict[str, dict[str, Any]]:
    """What the searches' pages say was chosen, by method, laid over the search's own settings."""
    return {method: own for search in SEARCHES for method, own in chosen_by(search).items()}


def chosen_by(name: str) -> dict[str, dict[str, Any]]:
    search = read_config(FOLDER / f"{name}.yaml", StudyConfig)
    one = search.model_copy(update={"regimes": dict(list(search.regimes.items())[:1])})
    own = dict(cells(one, dict.fromkeys(one.regimes, ""), "inprocess"))
    chapters = re.split(r"^## ", (FOLDER.parents[1] / "docs" / SEARCHES[name]).read_text(), flags=re.MULTILINE)[1:]
    names = {text.split()[0]: re.search(r"\*\*(\S+)\*\*, chosen", text) for text in chapters}
    return {method: recipe(own[f"{method}.{found[1]}"].train) for method, found in names.items() if found}


CHOSEN = chosen()


def counterpart(shared: Cell, others: dict[str, Cell]) -> str | None:
    """The method that is trained in the same way in everything but its routers and its recipe."""
    model = shared.model.model_copy(update={"routers": "per_modality"})
    for name, cell in others.items():
        own = cell.method.model_copy(update={"model": {}, "train": {}, "label": "", "description": ""})
        same = shared.method.model_copy(update={"model": {}, "train": {}, "label": "", "description": ""})
        train = cell.train.model_copy(update=recipe(shared.train))
        if (own, cell.model, train, cell.federation) == (same, model, shared.train, shared.federation):
            return name
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_wherever_a_shared_router_is_compared_a_method_differs_in_the_router_and_the_chosen_recipe_alone(
    path: Path,
) -> None:
    """Its balance over all modalities together would be a third difference: each modality's is balanced by itself."""
    for study in sizes(path):
        one = study.model_copy(update={"seeds": study.seeds[:1]})
        own = dict(cells(one, dict.fromkeys(study.regimes, ""), "inprocess"))
        compared = {name for pair in study.pairs for name in pair}
        for name in (name for name in compared if own[name].model.routers == "shared"):
            found = counterpart(own[name], own)
            assert found is not None, f"{study.name}: {name} differs in more than the router and the recipe"
            assert own[name].train.routing_losses.balance_pool == "modality", f"{study.name}: {name}"
            if recipe(own[name].train) != recipe(own[found].train):
                assert recipe(own[name].train) == CHOSEN["flexmoe"], f"{study.name}: {name}"
                assert recipe(own[found].train) == CHOSEN["permmoe"], f"{study.name}: {found}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_method_is_trained_by_the_recipe_that_the_search_chose_for_it(path: Path) -> None:
    if path.stem in FOR_BITS | set(SEARCHES) | ONE_RECIPE:
        return
    for study in sizes(path):
        one = study.model_copy(update={"seeds": study.seeds[:1]})
        for name, cell in cells(one, dict.fromkeys(study.regimes, ""), "inprocess"):
            if name in TRAINED_AS:
                assert recipe(cell.train) == CHOSEN[TRAINED_AS[name]], f"{study.name}: {name}"


def cohort_seeds(path: Path) -> set[str]:
    """The cohorts that a study and its profiles report, in the log's words."""
    sources = [data_source(study, regime) for study in sizes(path) for regime in study.regimes]
    return {
        f"{kind} seed {cohort.seed}"
        for source in sources
        for kind, cohort in (("synthetic", source.synthetic), ("planted", source.planted))
        if cohort is not None
    }


def test_every_study_reports_cohorts_of_its_own_that_no_other_study_looked_at() -> None:
    looks = read_looks((FOLDER.parents[1] / "docs" / "looks.csv").read_text(), "docs/looks.csv")
    own = {path.stem: cohort_seeds(path) for path in FILES if path.stem not in FOR_BITS | CHOICES}
    for name, cohorts in own.items():
        assert len(cohorts) <= SEVERAL_COHORTS.get(name, 1), f"{name} reports several cohorts: {cohorts}"
        others = {cohort for other, theirs in own.items() if other != name for cohort in theirs}
        seen = {look.cohort for look in looks if not f"{look.study}-".startswith(f"{name}-")}
        assert not cohorts & (others | seen), f"{name}: {cohorts} was looked at by another study"
