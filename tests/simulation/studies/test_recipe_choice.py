"""A search of recipes: every method has the same budget, cohorts are of development, and figures decide by the rule."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from permmoe.config import DEFAULT_RUN, RoutingLosses, RunConfig, TrainConfig, parse_config, read_config
from permmoe.errors import ConfigurationError
from permmoe_simulation.recipes_page import recipes_page
from permmoe_simulation.studies.recipe_choice import (
    DEVELOPMENT_SEEDS,
    Candidate,
    candidates,
    chosen,
    default_method,
    recipes_of,
    require_fair_search,
)
from permmoe_simulation.studies.study import StudyConfig, at_profile, cells, data_source
from permmoe_simulation.summary import MethodSummary, Summary

STUDIES = Path(__file__).parents[3] / "configs" / "studies"
SEARCH = read_config(STUDIES / "recipe-search.yaml", StudyConfig)
RIVALS = ("recipe-search-rivals", "recipe-search-rivals-2")
SEARCHES = (SEARCH.name, *RIVALS, "recipe-search-combined")
FUSEMOE = {"specialisation": False, "routing_losses": RoutingLosses(balance="entropy", balance_pool="modality")}
"""The losses that are part of FuseMoE's gate, whatever the recipe."""
COMBINATIONS = ("t1", "t1+tau")
NOT_REPORTED = {"adni-clinical", "new-hospital-choice", "costs"}
"""Studies whose file says that they are on a cohort of development, and that a published run takes another."""


def study(**changes: Any) -> StudyConfig:
    model = {"kind": "centralised", "label": "model"}
    values = {
        "name": "search", "description": "Three invented cohorts.", "seeds": [0],
        "data": {"synthetic": {"seed": 10}}, "model": {"modalities": [{"name": "t1"}, {"name": "tau"}]},
        "regimes": {f"cohort-{seed}": {"data": {"synthetic": {"seed": seed}}} for seed in (10, 11, 13)},
        "methods": {
            "a.plain": model, "a.slow": {**model, "train": {"epochs": 90}},
            "b.plain": {**model, "model": {"routers": "shared"}}, "b.slow": {**model, "train": {"epochs": 91}},
            "one.plain": {**model, "kind": "unimodal"},
            "one.slow": {**model, "kind": "unimodal", "train": {"epochs": 92}},
        },
        **changes,
    }  # fmt: skip
    return parse_config(values, StudyConfig, "search.yaml")


def rows(figures: dict[str, list[list[float]]], seed: int = 0) -> pd.DataFrame:
    """Rows of RESULTS from each recipe's RMSEs, [cohort][combination]; what is no row of the rule is beside them."""
    found = []
    for name, cohorts in figures.items():
        for cohort, combinations in zip((10, 11, 13), cohorts, strict=True):
            for combination, rmse in zip(COMBINATIONS, combinations, strict=True):
                key = {"method": name, "regime": f"cohort-{cohort}", "combination": combination}
                found.append({**key, "stratum": "all", "seed": str(seed), "rmse": rmse})
                found.append({**key, "stratum": "all", "seed": "all", "rmse": 99.0})
                found.append({**key, "stratum": "small_change", "seed": str(seed), "rmse": 99.0})
    return pd.DataFrame(found)


NAN = float("nan")
FIGURES = {
    "a.plain": [[1.5, 1.3], [1.7, 1.5], [1.6, 1.4]],
    "a.slow": [[1.4, 1.2], [1.6, 1.4], [1.5, 1.3]],
    "b.plain": [[1.6, 1.4], [1.6, 1.4], [1.6, 1.4]],
    "b.slow": [[1.6, 1.4], [1.7, 1.5], [1.5, 1.2]],
    "one.plain": [[1.9, NAN], [1.9, NAN], [1.9, NAN]],
    "one.slow": [[1.8, NAN], [1.7, NAN], [1.6, NAN]],
}


def candidate(recipe: str, *rmse: float) -> Candidate:
    return Candidate("a", recipe, np.array(rmse))


def choice(*several: Candidate) -> str | None:
    found = chosen(several)
    return found.recipe if found else None


def test_the_recipe_with_the_least_mean_is_chosen_where_the_cohorts_agree() -> None:
    assert choice(candidate("plain", 1.5, 1.7, 1.6), candidate("slow", 1.4, 1.6, 1.5)) == "slow"


def test_a_recipe_within_one_standard_error_of_the_best_is_chosen_where_it_stands_first() -> None:
    best = candidate("slow", 1.5, 1.6, 1.4)
    # Behind by 0.01, 0.05 and 0.0 (mean 0.02, standard error 0.0153), and by 0, 0.05 and 0 (both are 0.0167).
    clear, within = candidate("plain", 1.51, 1.65, 1.4), candidate("plain", 1.5, 1.65, 1.4)
    assert choice(clear, best) == "slow"
    assert choice(within, best) == "plain"
    assert choice(best, within) == "slow"


def test_equal_figures_give_the_first_recipe() -> None:
    assert choice(candidate("plain", 1.5, 1.6), candidate("slow", 1.5, 1.6)) == "plain"
    assert choice(candidate("slow", 1.5, 1.6), candidate("plain", 1.5, 1.6)) == "slow"


def test_that_cohorts_are_harder_than_others_hides_no_difference_between_recipes() -> None:
    """The differences are paired: these recipes' own spread over cohorts is fifty times what lies between them."""
    assert choice(candidate("plain", 1.02, 2.02, 3.02), candidate("slow", 1.0, 2.0, 3.0)) == "slow"


def test_a_recipe_that_did_not_finish_on_every_cohort_is_not_chosen_and_hides_no_other() -> None:
    unfinished = candidate("plain", 1.0, NAN, 1.0)
    assert not unfinished.is_finished
    assert choice(unfinished, candidate("slow", 1.5, 1.6, 1.7)) == "slow"
    assert choice(unfinished) is None


def test_a_figure_is_the_mean_over_the_combinations_that_the_method_has() -> None:
    found = candidates(study(), rows(FIGURES))
    plain, slow = found["a"]
    np.testing.assert_allclose(plain.rmse, [1.4, 1.6, 1.5])
    np.testing.assert_allclose(slow.rmse, [1.3, 1.5, 1.4])
    np.testing.assert_allclose([c.rmse for c in found["one"]], [[1.9, 1.9, 1.9], [1.8, 1.7, 1.6]])


def test_several_trainings_on_a_cohort_are_one_figure_of_it() -> None:
    both = pd.concat([rows(FIGURES), rows({name: [[2.0, 2.0]] * 3 for name in FIGURES}, seed=7)])
    np.testing.assert_allclose(candidates(study(seeds=[0, 7]), both)["a"][0].rmse, [1.7, 1.8, 1.75])


def test_a_recipe_without_a_combination_that_its_method_has_did_not_finish() -> None:
    figures = FIGURES | {"a.slow": [[1.4, 1.2], [1.6, NAN], [1.5, 1.3]]}
    plain, slow = candidates(study(), rows(figures))["a"]
    assert plain.is_finished and not slow.is_finished
    np.testing.assert_allclose(slow.rmse, [1.3, NAN, 1.4])


def test_a_recipe_that_never_finished_and_a_cohort_without_any_are_missing_and_no_error() -> None:
    table = rows(FIGURES)
    table = table[(table["method"] != "a.slow") & ~((table["method"] == "b.plain") & (table["regime"] == "cohort-13"))]
    found = candidates(study(), table)
    assert np.isnan(found["a"][1].rmse).all()
    np.testing.assert_allclose(found["b"][0].rmse, [1.5, 1.5, NAN])
    choices = {method: chosen(several) for method, several in found.items()}
    assert [c.name if c else None for c in choices.values()] == ["a.plain", "b.slow", "one.slow"]
    none = candidates(study(), table[~table["method"].str.startswith("a")])
    assert chosen(none["a"]) is None


def test_the_default_is_chosen_among_choices_that_are_one_model_for_all_combinations() -> None:
    found = candidates(study(), rows(FIGURES))
    choices = {method: chosen(several) for method, several in found.items()}
    assert default_method(study(), choices) is choices["a"]
    better = {**choices, "one": Candidate("one", "slow", np.zeros(3))}
    assert default_method(study(), better) is choices["a"]
    assert default_method(study(), {"a": None, "b": None, "one": choices["one"]}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"a": {"kind": "centralised", "label": "a"}}}, "'a'.*METHOD.RECIPE"),
        ({"methods": {".a": {"kind": "centralised", "label": "a"}}}, "'.a'.*METHOD.RECIPE"),
        (
            {"methods": {n: {"kind": "centralised", "label": n} for n in ("a.x", "a.y", "b.x")}},
            "unequal numbers of recipes: a 2, b 1",
        ),
        ({"regimes": {"cohort-10": {}}}, "has one cohort"),
        ({"regimes": {"x": {}, "y": {"data": {"synthetic": {"seed": 20}}}}}, "regime y .*from 10 to 19"),
        ({"data": {"table": "diabetes"}, "regimes": {"x": {}, "y": {}}}, "regime x .*no synthetic cohort"),
    ],
)
def test_a_search_that_is_not_fair_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        require_fair_search(study(**changes))


def test_the_search_that_is_delivered_gives_every_method_the_same_number_of_recipes_on_development_cohorts() -> None:
    require_fair_search(SEARCH)
    recipes = recipes_of(SEARCH)
    assert set(recipes) == {"permmoe", "flexmoe", "ridge-permmoe", "unimodal", "kernel-ridge"}
    assert {len(several) for several in recipes.values()} == {6}


def test_perm_moe_and_flex_moe_are_searched_alike_and_differ_in_the_router_alone() -> None:
    assert SEARCH.train.routing_losses.balance_pool == "modality"
    recipes = recipes_of(SEARCH)
    assert recipes["permmoe"] == recipes["flexmoe"] == recipes["ridge-permmoe"]
    for recipe in recipes["permmoe"]:
        one, shared, ridge = (
            SEARCH.methods[f"{method}.{recipe}"] for method in ("permmoe", "flexmoe", "ridge-permmoe")
        )
        assert one.train == shared.train == ridge.train
        assert one.model == {} and shared.model == {"routers": "shared"}


@pytest.mark.parametrize("path", sorted(STUDIES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_no_study_that_is_reported_has_a_cohort_of_development(path: Path) -> None:
    if "methods:" not in path.read_text() or path.stem in SEARCHES:
        return
    delivered = read_config(path, StudyConfig)
    for profile in delivered.profiles or [""]:
        sized = at_profile(delivered, profile)
        for regime in sized.regimes:
            cohort = data_source(sized, regime).synthetic
            is_of_development = cohort is not None and cohort.seed in DEVELOPMENT_SEEDS
            assert not is_of_development or path.stem in NOT_REPORTED


def summary(searched: StudyConfig, **changes: Any) -> Summary:
    values: dict[str, Any] = {
        "study": searched.name, "synthetic": True, "modalities": searched.model.names,
        "command": "python run_it.py --out /scratch",
        "methods": {name: MethodSummary(label=method.label) for name, method in searched.methods.items()},
        "configuration": yaml.safe_dump(searched.model_dump(mode="json")), "digests": {"study": "0f" * 32},
        "date": "2026-01-05", **changes,
    }  # fmt: skip
    return Summary(**values)


def test_the_page_has_the_rule_every_recipe_with_its_figures_and_what_was_chosen() -> None:
    page = recipes_page(summary(study()), rows(FIGURES), "python choose_it.py")
    assert "SYNTHETIC DATA" in page and "one standard error" in page
    assert "`python choose_it.py`" in page and "`python run_it.py`." in page and "`0f0f0f0f`" in page
    assert "| plain | – | 1.400 | 1.600 | 1.500 | 1.500 | +0.100 (0.000) |" in page
    assert "| **slow**, chosen | `{train: {epochs: 90}}` | 1.300 | 1.500 | 1.400 | 1.400 | the best |" in page
    assert "`a.slow` the default" in page
    assert page.count("**, chosen") == 3


def test_a_search_that_chooses_no_default_says_nothing_of_one() -> None:
    page = recipes_page(summary(study()), rows(FIGURES), "python choose_it.py", chooses_default=False)
    assert "default" not in page and page.count("**, chosen") == 3


def trainings(searched: StudyConfig) -> dict[str, TrainConfig]:
    """By METHOD.RECIPE, what it is trained by on one cohort."""
    one = searched.model_copy(update={"regimes": dict(list(searched.regimes.items())[:1])})
    return {name: cell.train for name, cell in cells(one, dict.fromkeys(one.regimes, ""), "inprocess")}


@pytest.mark.parametrize("name", RIVALS)
def test_the_recipes_of_rivals_are_those_that_permmoe_was_given(name: str) -> None:
    rivals = read_config(STUDIES / f"{name}.yaml", StudyConfig)
    theirs, ours = trainings(rivals), trainings(SEARCH)
    for method, recipes in recipes_of(rivals).items():
        assert recipes == recipes_of(SEARCH)["permmoe"]
        losses = FUSEMOE if method == "fusemoe" else {}
        for recipe in recipes:
            assert theirs[f"{method}.{recipe}"] == ours[f"permmoe.{recipe}"].model_copy(update=losses)
    shared = ("data", "regimes", "split", "seeds", "model", "train")
    assert all(getattr(rivals, name) == getattr(SEARCH, name) for name in shared)


def test_the_page_says_what_did_not_finish() -> None:
    table = rows(FIGURES)
    page = recipes_page(
        summary(study(), failed_cells=("b.slow, cohort-11, seed 0: OSError",)),
        table[(table["method"] != "a.slow") & ~((table["method"] == "b.slow") & (table["regime"] == "cohort-11"))],
        "python choose_it.py",
    )
    assert "| slow | `{train: {epochs: 90}}` | – | – | – | not finished | – |" in page
    assert "| slow | `{train: {epochs: 91}}` | 1.500 | – | 1.350 | not finished | – |" in page
    assert "1 cells failed" in page
    nothing = recipes_page(summary(study()), table[~table["method"].str.startswith("a")], "python choose_it.py")
    assert "No recipe finished on every cohort, so none is chosen." in nothing and "| a | none | – | |" in nothing


def test_what_is_trained_without_a_configuration_is_what_the_search_chose() -> None:
    page = (STUDIES.parents[1] / "docs" / "recipes.md").read_text()
    default = re.search(r"makes `(\S+)` the default", page)
    assert default
    one = SEARCH.model_copy(update={"regimes": {"x": next(iter(SEARCH.regimes.values()))}})
    cell = dict(cells(one, {"x": ""}, "inprocess"))[default.group(1)]
    assert cell.model == DEFAULT_RUN.model.model_copy(update={"spread": "none"})
    # With one router a modality both pools of the balance are one; a last epoch that is kept looks at no validation.
    same = {"routing_losses": TrainConfig().routing_losses, "validate_every": 1, "seed": 0}
    assert cell.train.model_copy(update=same) == DEFAULT_RUN.train
    assert read_config(STUDIES.parents[1] / "configs" / "models" / "permmoe-small.yaml", RunConfig) == DEFAULT_RUN
