"""Late fusion: weights, what has no say, and federations of single modalities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from permmoe.config import parse_config
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError
from permmoe.modality import all_combinations, combination_name
from permmoe_simulation.studies.cell import run_cell, split_and_partition
from permmoe_simulation.studies.cell_files import CALIBRATION, Predicted, read_predictions
from permmoe_simulation.studies.late_fusion import fused, sites_with, weight
from permmoe_simulation.studies.sources import prepare_data
from permmoe_simulation.studies.study import Cell, StudyConfig, cells
from tests.support.tiny_study import QUIET, settings

pytestmark = pytest.mark.xdist_group("study")

NAMES = ("a", "b", "c")
KINDS: dict[str, dict[str, Any]] = {
    "unimodal": {"kind": "unimodal", "label": "unimodal"},
    "late-fusion": {"kind": "late_fusion", "label": "late fusion"},
    "federated": {"kind": "federated_late_fusion", "label": "federated late fusion"},
}


def visits_of(patterns: list[str]) -> VisitTable:
    return VisitTable(
        tuple(
            Visit(f"p{i}", "s", "m0", 1.0, 0.5, 24.0, tables=dict.fromkeys(pattern, (1.0,)))
            for i, pattern in enumerate(patterns)
        )
    )


def predicting(visits: VisitTable, name: str, generator: np.random.Generator) -> Predicted:
    own = visits.where(lambda visit: name in visit.tables)
    return Predicted(own, generator.normal(size=(len(own), 1)))


def test_every_combination_is_the_weighted_mean_of_its_modalities_models() -> None:
    visits, generator = visits_of(["abc", "ab", "c", "bc", "a"]), np.random.default_rng(0)
    models = {name: predicting(visits, name, generator) for name in NAMES}
    weights = {"a": 0.5, "b": 2.0, "c": 3.5}
    found = fused(visits, NAMES, models, weights)
    for row, visit in enumerate(visits):
        own = {
            name: model.predictions[list(model.visits).index(visit), 0]
            for name, model in models.items()
            if visit in model.visits.visits
        }
        for column, combination in enumerate(all_combinations(NAMES)):
            value = found.predictions[row, column]
            if set(combination) <= set(own):
                total = sum(weights[name] for name in combination)
                assert value == pytest.approx(sum(weights[name] * own[name] for name in combination) / total)
            else:
                assert np.isnan(value)


def test_a_single_modality_is_its_models_own_prediction_whatever_its_weight() -> None:
    visits = visits_of(["abc", "ab"])
    models = {name: predicting(visits, name, np.random.default_rng(1)) for name in NAMES}
    found = fused(visits, NAMES, models, {"a": 0.0, "b": 1e-9, "c": 1e9})
    np.testing.assert_allclose(found.predictions[:, 0], models["a"].predictions[:, 0])
    np.testing.assert_allclose(found.predictions[:, 1], models["b"].predictions[:, 0])


def test_a_modality_without_a_model_has_no_say_but_where_it_is_alone_there_is_no_prediction() -> None:
    visits = visits_of(["abc", "ac"])
    models = {name: predicting(visits, name, np.random.default_rng(2)) for name in ("a", "c")}
    columns = [combination_name(combination) for combination in all_combinations(NAMES)]
    found = pd.DataFrame(fused(visits, NAMES, models, {"a": 1.0, "c": 1.0}).predictions, columns=columns)
    assert found["b"].isna().all()
    assert found["a+b"][0] == found["a"][0] and np.isnan(found["a+b"][1])


def test_a_weight_is_one_over_the_squared_error_and_without_validation_visits_nothing() -> None:
    visits = visits_of(["a", "a", "a"])
    assert weight(Predicted(visits, np.array([[0.5], [2.5], [0.5]]))) == pytest.approx(3 / 4)
    assert weight(Predicted(VisitTable(()), np.zeros((0, 1)))) == 0.0


def study(**changes: Any) -> StudyConfig:
    values = {"methods": KINDS, "comparisons": [], "claims": [], "seeds": [0], **changes}
    return parse_config(settings(**values), StudyConfig, "study.yaml")


def cell_of(kind: str, **changes: Any) -> Cell:
    made = study(**changes)
    return next(c for name, c in cells(made, dict.fromkeys(made.regimes, "d"), "inprocess") if name == kind)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[VisitTable, Path]:
    plain = study()
    data = prepare_data(plain.data, plain.model, tmp_path_factory.mktemp("late"), 1, QUIET)
    return data.visits, data.cache


def predictions(kind: str, made: tuple[VisitTable, Path], folder: Path) -> pd.DataFrame:
    return read_predictions(run_cell(cell_of(kind), *made, folder / kind)).set_index("subject")


def test_its_models_are_the_unimodal_ones_and_it_lies_between_them(
    made: tuple[VisitTable, Path], tmp_path: Path
) -> None:
    alone, together = (predictions(kind, made, tmp_path) for kind in ("unimodal", "late-fusion"))
    singles = list(cell_of("unimodal").model.names)
    pd.testing.assert_frame_equal(alone[singles], together[singles])
    both = together["t1+flair"].dropna()
    own = alone.loc[both.index, ["t1", "flair"]]
    assert len(both) and (both >= own.min(axis=1) - 1e-9).all() and (both <= own.max(axis=1) + 1e-9).all()
    assert (tmp_path / "late-fusion" / CALIBRATION).exists()


def test_each_modality_is_federated_over_the_hospitals_that_have_it_and_all_are_paid_for(
    made: tuple[VisitTable, Path], tmp_path: Path
) -> None:
    cell = cell_of("federated")
    found = predictions("federated", made, tmp_path)
    assert np.isfinite(found["t1"].dropna()).all() and len(found["t1+flair"].dropna())
    rounds = pd.read_csv(tmp_path / "federated" / "rounds.csv", dtype={"site": str})
    sites, _ = split_and_partition(made[0], cell)
    having = {name: sites_with(sites, name) for name in cell.model.names}
    assert set(rounds["site"]) == {site for own in having.values() for site in own}
    assert len(having["tau"]) < len(having["t1"])
    with_tau = rounds["site"].isin(list(having["tau"]))
    first = rounds[rounds["round"] == 1]
    assert first[with_tau]["bytes_up"].mean() > first[~with_tau]["bytes_up"].mean()


@pytest.mark.parametrize(
    "settings_of_method",
    [{"personal_epochs": 1}, {"federation": {"private_modules": ["head"]}}],
)
def test_personal_models_of_late_fusion_are_refused(settings_of_method: dict[str, Any]) -> None:
    methods = {"federated": KINDS["federated"] | settings_of_method}
    with pytest.raises(ConfigurationError, match="late fusion trains a model a modality"):
        cell_of("federated", methods=methods)
