"""A study names the ladder once; its rungs are methods like others, and its columns are read of every visit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from permmoe.config import ModelConfig, parse_config
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError
from permmoe.evaluation.baselines import BASELINES
from permmoe.modality import Modality
from permmoe_simulation.studies.cell import run_cell
from permmoe_simulation.studies.cell_files import read_predictions
from permmoe_simulation.studies.ladder import CLINICAL_COLUMNS, RUNGS, Ladder, column_facts
from permmoe_simulation.studies.sources import prepare_data
from permmoe_simulation.studies.study import DataSource, StudyConfig, at_profile, cells
from tests.support.tiny_study import QUIET, settings


def study(**changes: Any) -> StudyConfig:
    return parse_config(settings(**changes), StudyConfig, "study")


def test_a_study_without_a_ladder_is_what_it_was() -> None:
    assert "ladder" not in study().model_dump()
    assert study().ladder_pairs == study().covariates == ()
    assert set(study().methods) == set(settings()["methods"])


def test_the_rungs_are_references_that_there_are_and_the_study_s_own_ones_keep_their_words() -> None:
    with_ladder = study(ladder={})
    assert set(RUNGS) <= set(with_ladder.methods)
    for name, rung in RUNGS.items():
        method = with_ladder.methods[name]
        assert (method.kind, method.baseline) == ("reference", rung["baseline"]) and rung["baseline"] in BASELINES
    own = {**settings()["methods"], "clinical-null": {"kind": "reference", "baseline": "clinical_null", "label": "A"}}
    assert study(ladder={}, methods=own).methods["clinical-null"].label == "A"
    assert with_ladder.covariates == CLINICAL_COLUMNS


def test_every_model_is_held_against_every_rung_ridge_on_voxels_too_and_no_rung_is() -> None:
    ridge = {"kind": "reference", "baseline": "kernel_ridge", "label": "r"}
    null = {"kind": "reference", "baseline": "clinical_null", "label": "a rung of another name"}
    loaded = study(ladder={}, methods={**settings()["methods"], "ridge": ridge, "null": null})
    expected = {(name, rung) for name in ("federated", "local", "centralised", "ridge") for rung in RUNGS}
    assert set(loaded.ladder_pairs) == expected and len(loaded.ladder_pairs) == len(expected)


def test_another_method_of_a_rung_s_name_is_refused() -> None:
    methods = {**settings()["methods"], "clinical-ridge": {"kind": "centralised", "label": "x"}}
    with pytest.raises(ConfigurationError, match="'clinical-ridge' is a rung of the ladder"):
        study(ladder={}, methods=methods)
    with pytest.raises(ConfigurationError, match="public table"):
        study(ladder={}, data={"table": "diabetes"})
    with pytest.raises(ConfigurationError, match="columns"):
        study(ladder={"columns": []})


def test_a_ladder_survives_its_dump_and_is_in_every_profile() -> None:
    quick = {"quick": {"methods": ["centralised"]}}
    loaded = study(ladder={"columns": ["MMSE"]}, profiles=quick)
    assert parse_config(loaded.model_dump(), StudyConfig, "again") == loaded
    small = at_profile(loaded, "quick")
    assert set(small.methods) == {"centralised", *RUNGS} and small.covariates == ("MMSE",)
    assert len(cells(small, dict.fromkeys(small.regimes, "d"), "inprocess")) == 2 * (1 + len(RUNGS))


def test_a_manifest_without_some_of_the_columns_is_read_and_it_is_known_which(tmp_path: Path) -> None:
    header = "subject_id,site,session,baseline_cdrsb,delta_cdrsb,horizon_months,age_years,ptau,MMSE,FAQ"
    rows = [f"s{i},x,bl,1.5,0.5,24,{70 + i},{i}.5,{28 if i else ''},3" for i in range(7)]
    (tmp_path / "table.csv").write_text("\n".join([header, *rows]) + "\n")
    source = parse_config({"manifest": tmp_path / "table.csv"}, DataSource, "data")
    model = ModelConfig(modalities=(Modality(name="fluid", kind="tabular", columns=("ptau",)),))
    ladder = Ladder()
    visits = prepare_data(source, model, tmp_path, 1, QUIET, (), ladder.columns).visits
    assert visits.visits[0].covariates == {"age_years": 70.0, "FAQ": 3.0}
    facts = {fact.column: fact for fact in column_facts(ladder, visits)}
    assert [fact.column for fact in facts.values()] == list(CLINICAL_COLUMNS)
    assert facts["MMSE"].left_out == facts["FAQ"].left_out == "it is the same in every visit"
    assert (facts["MMSE"].measured, facts["MMSE"].visits) == (6, 7)
    assert facts["age_years"].left_out == "" and facts["ADAS13"].left_out == "no visit has it"
    plain = prepare_data(source, model, tmp_path, 1, QUIET)
    assert all(not visit.covariates for visit in plain.visits)


def test_every_rung_of_a_study_runs_and_those_that_see_the_columns_are_better(tmp_path: Path) -> None:
    """A manifest whose change follows MMSE, which no modality tells and one visit of seven lacks."""
    header = "subject_id,site,session,baseline_cdrsb,delta_cdrsb,horizon_months,age_years,ptau,MMSE"
    rows = [
        f"s{i},{'xy'[i % 2]},bl,{1 + i % 3 / 2},{(30 - 20 - i % 11) / 2},24,{60 + i % 17},{i % 5},"
        + (f"{20 + i % 11}" if i % 7 else "")
        for i in range(240)
    ]
    (tmp_path / "table.csv").write_text("\n".join([header, *rows]) + "\n")
    loaded = parse_config(
        {
            "name": "rungs",
            "description": "d",
            "data": {"manifest": str(tmp_path / "table.csv")},
            "model": {"modalities": [{"name": "fluid", "kind": "tabular", "columns": ["ptau"]}]},
            "methods": {"ridge": {"kind": "reference", "label": "r", "baseline": "kernel_ridge"}},
            "ladder": {"columns": ["MMSE", "FAQ"]},
            "seeds": [0],
        },
        StudyConfig,
        "study",
    )
    data = prepare_data(loaded.data, loaded.model, tmp_path, 1, QUIET, loaded.modalities, loaded.covariates)
    errors = {}
    for name, cell in cells(loaded, {"site": data.digest}, "inprocess"):
        found = read_predictions(run_cell(cell, data.visits, data.cache, tmp_path / "cells" / name))
        errors[name] = float(np.sqrt(np.mean((found["fluid"] - found["target"]) ** 2)))
    assert set(errors) == {"ridge", *RUNGS}
    blind = min(errors["training-mean"], errors["clinical-null"], errors["ridge"])
    assert max(errors["clinical-ridge"], errors["clinical-boosting"]) < 0.7 * blind


def test_what_visits_carry_is_in_their_digest_and_nothing_is_where_they_carry_nothing() -> None:
    bare = Visit("s", "x", "bl", 1.5, 0.5, 24.0, tables={"fluid": (1.0,)})
    other = Visit("s", "x", "bl", 1.5, 0.5, 24.0, tables={"fluid": (1.0,)}, covariates={"MMSE": 28.0})
    assert VisitTable((bare,)).digest() != VisitTable((other,)).digest()
    assert other.with_only(("fluid",)).covariates == {"MMSE": 28.0}
