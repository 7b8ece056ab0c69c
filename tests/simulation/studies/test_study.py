"""A study's file, and the cells that it unfolds into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from permmoe.config import RunConfig, parse_config, read_config
from permmoe.errors import ConfigurationError
from permmoe_simulation.studies.study import Cell, StudyConfig, at_profile, cells, cells_trained_again

# The other files in the folder are studies for permmoe-server.
CONFIGS = Path(__file__).parents[3] / "configs" / "studies"
STUDIES = [path for path in sorted(CONFIGS.rglob("*.yaml")) if "methods:" in path.read_text()]


def settings(**changes: Any) -> dict[str, Any]:
    methods = {
        "permmoe": {"kind": "federated", "label": "PerM-MoE"},
        "null": {"kind": "reference", "label": "null", "baseline": "clinical_null"},
    }
    return {"name": "s", "description": "d", "data": {"synthetic": {}}, "methods": methods, **changes}


def study(**changes: Any) -> StudyConfig:
    return parse_config(settings(**changes), StudyConfig, "study.yaml")


PUBLISHED = {"source": "A 2025", "method": "permmoe", "reference": "null"}


def one_cell(study: StudyConfig, data: str = "d") -> Cell:
    return cells(study, dict.fromkeys(study.regimes, data), "inprocess")[0][1]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_that_is_delivered_loads_and_unfolds(path: Path) -> None:
    loaded = read_config(path, StudyConfig)
    assert loaded.name == path.stem
    assert len(cells(loaded, dict.fromkeys(loaded.regimes, "d"), "inprocess")) == len(loaded.methods) * len(
        loaded.regimes
    ) * len(loaded.seeds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metods": {}}, "'metods'; did you mean 'methods'"),
        ({"train": {"epocs": 3}}, "'epocs'; did you mean 'epochs'"),
        ({"comparisons": [["permoe", "null"]]}, "'permoe'; did you mean 'permmoe'"),
        ({"claims": [{"method": "permmoe", "reference": "nul"}]}, "'nul'; did you mean 'null'"),
        (
            {"claims": [{"method": "permmoe", "reference": "null", "combination": "t1+tou"}]},
            r"'t1\+tou'; did you mean 't1\+tau'",
        ),
        ({"methods": {"k": {"kind": "reference", "label": "k", "baseline": "kernel_rige"}}}, "'kernel_ridge'"),
        ({"newcomers": [20, 10], "regimes": {"new": {"unseen": 1}}}, "the smallest first"),
        ({"newcomers": [9], "regimes": {"new": {"unseen": 1}}}, "greater than or equal to 10"),
        ({"newcomers": [10]}, "every site trains"),
        ({"published": [PUBLISHED | {"reference": "nul"}]}, "'nul'; did you mean 'null'"),
        ({"published": [PUBLISHED | {"percent": {"flare": -8.6}}]}, "'flare'; did you mean 'flair'"),
        ({"published": [PUBLISHED | {"percent_by_stratum": {"small_chang": -1}}]}, "did you mean 'small_change'"),
        ({"published": [PUBLISHED | {"wins": "eleven"}]}, "wins"),
        ({"axis": "sites"}, "regime 'site' lacks a value"),
        ({"regimes": {"near": {"value": 3}}}, "regime 'near' lacks an axis"),
        ({"data": {}}, "exactly one of"),
        ({"seeds": [1, 1]}, "twice"),
        ({"seeds": [-1]}, "greater than or equal to 0"),
        ({"split": {"test": 0.0}}, r"split\.test is 0"),
        ({"split": {"test": 0.7, "validation": 0.4}}, "leave no visit to train on"),
    ],
)
def test_a_mistake_names_where_it_is_and_what_is_meant(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        study(**changes)
    assert "study.yaml" in str(caught.value)


def test_a_mistake_in_an_override_names_the_method_and_the_nearest_key() -> None:
    methods = {"permmoe": {"kind": "federated", "label": "p", "train": {"learning_rat": 1}}}
    with pytest.raises(ConfigurationError, match=r"methods\.permmoe.*\n.*did you mean 'learning_rate'"):
        cells(study(methods=methods), {"site": "d"}, "inprocess")


def test_an_override_is_laid_over_nested_settings_and_keeps_the_rest() -> None:
    encoder = {"kind": "pooled", "cells": [6, 7, 6], "tabular_width": 5}
    methods = {"p": {"kind": "federated", "label": "p", "model": {"encoder": {"cells": [3, 5, 7]}}}}
    cell = one_cell(study(model={"encoder": encoder, "width": 64}, methods=methods))
    assert (cell.model.encoder.cells, cell.model.encoder.tabular_width, cell.model.width) == ((3, 5, 7), 5, 64)


def test_the_main_method_is_trained_again_on_the_same_splits_with_other_seeds_of_its_own() -> None:
    made = study(seeds=[0, 1, 2, 3, 4], comparisons=[["null", "permmoe"]])
    first = [cell for name, cell in cells(made, {"site": "d"}, "inprocess") if name == "permmoe"]
    again = cells_trained_again(made, {"site": "d"}, "inprocess")
    assert [name for name, _ in again] == ["permmoe+again"] * 5
    for one, (_, other) in zip(first, again, strict=True):
        assert (one.split, one.partition, one.seed, one.model) == (
            other.split,
            other.partition,
            other.seed,
            other.model,
        )
        assert one.digest() != other.digest()
    seeds = [cell.train.seed for cell in first] + [cell.train.seed for _, cell in again]
    assert len(set(seeds)) == 10


@pytest.mark.parametrize(
    "changes",
    [{"comparisons": [["permmoe", "null"]]}, {"seeds": [0, 1, 2, 3, 4]}],
    ids=["too few seeds for a verdict", "nothing compared"],
)
def test_a_study_that_judges_nothing_trains_nothing_again(changes: dict[str, Any]) -> None:
    assert cells_trained_again(study(**changes), {"site": "d"}, "inprocess") == []


def test_seeds_move_split_and_training_and_come_outermost() -> None:
    unfolded = cells(study(seeds=[3, 5], split={"seed": 10}, train={"seed": 100}), {"site": "d"}, "inprocess")
    assert [(name, c.seed, c.split.seed, c.train.seed) for name, c in unfolded] == [
        ("permmoe", 3, 13, 103),
        ("null", 3, 13, 103),
        ("permmoe", 5, 15, 105),
        ("null", 5, 15, 105),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [7]},
        {"split": {"test": 0.3}},
        {"model": {"width": 64}},
        {"train": {"learning_rate": 0.5}},
        {"federation": {"rounds": 2}},
        {"regimes": {"site": {"kind": "dirichlet"}}},
        {"regimes": {"site": {"unseen": 1}}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_setting_that_matters_is_another_cell(changes: dict[str, Any]) -> None:
    assert one_cell(study(**changes)).digest() != one_cell(study()).digest()


@pytest.mark.parametrize(
    "method",
    [
        {"kind": "local"},
        {"kind": "federated", "personal_epochs": 1},
        {"kind": "federated", "federation": {"private_modules": ["head"]}},
    ],
    ids=["local", "fine-tuned", "private head"],
)
def test_a_model_of_a_site_by_itself_is_refused_where_sites_train_nothing(method: dict[str, Any]) -> None:
    methods = {"own": {"label": "own", **method}}
    seen = study(methods=methods)
    assert one_cell(seen).method.kind == method["kind"] and "unseen" not in seen.canonical_json()
    with pytest.raises(ConfigurationError, match=r"methods\.own of study s: a site that trains nothing \(regimes\.new"):
        one_cell(study(methods=methods, regimes={"new": {"unseen": 1}}))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"kind": "centralised", "model": {"harmonisation": {}}}, "kind centralised has none; leave it out there"),
        ({"kind": "federated", "model": {"harmonisation": {}}}, "go together; give both, or neither"),
        ({"kind": "federated", "federation": {"harmonising_round": True}}, "go together; give both, or neither"),
    ],
    ids=["centralised", "without its round", "round alone"],
)
def test_images_are_harmonised_between_sites_of_a_federation_that_tell(method: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"methods\.m of study s: .*{message}"):
        one_cell(study(methods={"m": {"label": "m", **method}}))


def test_visits_carry_what_images_are_harmonised_by_without_a_ladder_too() -> None:
    sex = {"column": "PTGENDER", "mean": 1.5, "deviation": 0.5}
    age = {"column": "age_years", "mean": 73.0, "deviation": 7.0}
    method = {
        "kind": "federated", "label": "m", "model": {"harmonisation": {"covariates": [age, sex]}},
        "federation": {"harmonising_round": True},
    }  # fmt: skip
    assert study(methods={"m": method}).covariates == ("PTGENDER",) and study().covariates == ()


def test_other_data_or_another_baseline_is_another_cell() -> None:
    assert one_cell(study(), "other").digest() != one_cell(study()).digest()
    a, b = ({"k": {"kind": "reference", "label": "k", "baseline": name}} for name in ("kernel_ridge", "training_mean"))
    assert one_cell(study(methods=a)).digest() != one_cell(study(methods=b)).digest()


def test_names_and_texts_make_no_other_cell() -> None:
    renamed = {"another": {"kind": "federated", "label": "x", "description": "y", "train": {"epochs": 60}}}
    changed = study(name="z", description="z", methods=renamed, regimes={"elsewhere": {"kind": "site"}})
    assert one_cell(changed).digest() == one_cell(study()).digest()


def test_what_the_report_is_told_makes_no_other_cell() -> None:
    told = study(
        axis="sites",
        regimes={"site": {"value": 11}},
        outcome={"name": "progression", "unit": "points"},
        published=[PUBLISHED | {"percent": {"tau": -3.6}, "reference_better": ["amyloid+tau"], "wins": "11 of 15"}],
    )
    assert one_cell(told).digest() == one_cell(study()).digest()


def test_the_papers_strata_are_of_its_own_outcome_only() -> None:
    assert study().outcome.strata == ("all", "small_change", "severe_baseline")
    assert study(outcome={"name": "disease progression", "unit": "points"}).outcome.strata == ("all",)


def test_published_pairs_are_compared_and_leave_with_their_methods() -> None:
    profiles = {"quick": {"methods": ["permmoe"]}, "full": {}}
    whole = study(published=[PUBLISHED], profiles=profiles)
    assert whole.pairs == (("permmoe", "null"),)
    assert at_profile(whole, "quick").name == whole.name and at_profile(whole, "full").name == f"{whole.name}-full"
    assert at_profile(whole, "quick").pairs == () and at_profile(whole, "full").pairs == whole.pairs


PAPER_TABLE = CONFIGS / "paper-table-1.yaml"


@pytest.mark.parametrize(
    ("method", "file"), [("permmoe-published", "permmoe-published.yaml"), ("flexmoe-published", "flex-moe-public.yaml")]
)
def test_the_full_paper_table_has_the_published_models_as_their_files_have_them(method: str, file: str) -> None:
    table = at_profile(read_config(PAPER_TABLE, StudyConfig), "full")
    [cell, *_] = [cell for name, cell in cells(table, {"site": "d"}, "inprocess") if name == method]
    published = read_config(CONFIGS.parent / "models" / file, RunConfig)
    assert (cell.model, cell.train) == (published.model, published.train)


def test_at_quick_the_published_pair_has_another_encoder_and_fewer_validations_and_says_so() -> None:
    table = at_profile(read_config(PAPER_TABLE, StudyConfig), "quick")
    full = at_profile(read_config(PAPER_TABLE, StudyConfig), "full")
    for method in ("permmoe-published", "flexmoe-published"):
        of_quick, of_full = (
            next(cell for name, cell in cells(s, {"site": "d"}, "inprocess") if name == method) for s in (table, full)
        )
        assert of_quick.model.encoder.kind == "pooled"
        same = {"grid": of_full.model.grid, "encoder": of_full.model.encoder}
        assert of_quick.model.model_copy(update=same) == of_full.model
        assert of_quick.train.model_copy(update={"validate_every": of_full.train.validate_every}) == of_full.train
        assert "pooled voxels in place of the CNN and a validation every fifth" in of_quick.method.description


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_each_pair_of_the_paper_table_differs_in_the_routers_and_the_small_one_in_its_recipes(profile: str) -> None:
    """Recipes are held to docs/recipes.md by test_shipped_studies.py."""
    table = at_profile(read_config(PAPER_TABLE, StudyConfig), profile)
    own = dict(reversed(cells(table, {"site": "d"}, "inprocess")))
    for permmoe, flexmoe in (("permmoe", "flexmoe"), ("permmoe-published", "flexmoe-published")):
        assert own[flexmoe].model.model_copy(update={"routers": "per_modality"}) == own[permmoe].model
        assert own[permmoe].train.routing_losses.balance_pool == "modality"
    assert own["flexmoe-published"].train == own["permmoe-published"].train
