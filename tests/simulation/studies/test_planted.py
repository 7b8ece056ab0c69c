"""Planted patients: what is said of the truth is true of the numbers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from permmoe.config import parse_config, read_config
from permmoe.data.manifest import read_manifest, write_manifest
from permmoe.data.outcome_columns import OutcomeColumns
from permmoe.errors import ConfigurationError
from permmoe.modality import Modality
from permmoe_simulation.studies.cell import run_cell
from permmoe_simulation.studies.planted import PlantedConfig, attainable_rmse, planted, planted_visits
from permmoe_simulation.studies.study import Cell, StudyConfig, at_profile, cells, data_source

KNOWN_TRUTH = read_config(Path(__file__).parents[3] / "configs" / "studies" / "known-truth.yaml", StudyConfig)

MODALITIES = tuple(
    Modality(name=name, kind="tabular", columns=tuple(f"{name}_{i}" for i in range(5))) for name in ("t1", "tau")
)
MANY = 20_000


def drawn(**settings: object) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Outcomes, numbers by modality, and who is at the first site."""
    shares = {"explained": {"t1": 0.3, "tau": 0.2}} | settings
    found = planted(PlantedConfig.model_validate({"patients": MANY, "sites": 4} | shares), MODALITIES)
    return found.outcome, found.numbers, found.site == 0


def least_error(outcome: np.ndarray, *features: np.ndarray) -> float:
    """RMSE of least squares on the features, with an intercept."""
    x = np.column_stack([np.ones(len(outcome)), *features])
    return float(np.sqrt(np.mean((outcome - x @ np.linalg.lstsq(x, outcome, rcond=None)[0]) ** 2)))


def by_type(numbers: np.ndarray) -> np.ndarray:
    """The numbers after the first two, a copy for each of the four types, zero for patients of other types."""
    types = (numbers[:, 0] > 0) * 2 + (numbers[:, 1] > 0)
    return np.column_stack([numbers[:, 2:] * (types == kind)[:, None] for kind in range(4)])


@pytest.mark.parametrize("combination", [("t1",), ("tau",), ("t1", "tau")])
@pytest.mark.parametrize("routed", [0.0, 0.6, 1.0])
def test_the_attainable_error_is_reached_by_who_knows_the_types_and_no_less(
    combination: tuple[str, ...], routed: float
) -> None:
    config = PlantedConfig(patients=MANY, explained={"t1": 0.3, "tau": 0.2}, routed=routed)
    outcome, numbers, _ = drawn(routed=routed)
    seen = [by_type(numbers[name]) for name in combination]
    assert least_error(outcome, *seen) == pytest.approx(attainable_rmse(config, combination), rel=0.02)


@pytest.mark.parametrize("routed", [0.0, 0.6, 1.0])
def test_a_linear_model_sees_nothing_of_what_is_routed(routed: float) -> None:
    config = PlantedConfig(patients=MANY, explained={"t1": 0.3, "tau": 0.2}, routed=routed)
    outcome, numbers, _ = drawn(routed=routed)
    reached = least_error(outcome, numbers["t1"], numbers["tau"])
    assert reached == pytest.approx(attainable_rmse(config, ("t1", "tau"), linear=True), rel=0.02)


def test_a_modality_that_explains_nothing_says_nothing_even_by_type() -> None:
    outcome, numbers, _ = drawn(explained={"t1": 0.3}, routed=0.5)
    without = least_error(outcome, by_type(numbers["t1"]))
    assert least_error(outcome, by_type(numbers["t1"]), by_type(numbers["tau"])) == pytest.approx(without, rel=2e-3)


def test_the_shift_is_the_first_sites_alone() -> None:
    outcome, numbers, is_first = drawn()
    moved_outcome, moved, _ = drawn(outcome_shift=2.0, scanner_shift=1.0)
    np.testing.assert_allclose(moved_outcome - outcome, 2.0 * is_first, atol=1e-9)
    np.testing.assert_allclose(moved["t1"] - numbers["t1"], is_first[:, None] * np.ones(5), atol=1e-9)


def test_a_seed_is_a_cohort_and_sites_are_of_equal_size() -> None:
    config = PlantedConfig(patients=41, sites=4, explained={"t1": 0.3})
    one, again = planted_visits(config, MODALITIES), planted_visits(config, MODALITIES)
    other = planted_visits(config.model_copy(update={"seed": 1}), MODALITIES)
    assert one.digest() == again.digest() != other.digest()
    sizes = [len(one.where(lambda visit, site=site: visit.site == site)) for site in one.sites]  # type: ignore[misc]
    assert sorted(sizes) == [10, 10, 10, 11]


@pytest.mark.parametrize(
    ("modalities", "explained", "message"),
    [
        (MODALITIES, {"tua": 0.3}, r"nothing can be planted in 'tua'.*tau"),
        ((Modality(name="t1"),), {"t1": 0.3}, r"modality t1: planted patients have numbers; give it kind: tabular"),
        ((Modality(name="t1", kind="tabular", columns=("a", "b", "c")),), {"t1": 0.3}, r"at least 4 columns"),
    ],
)
def test_what_cannot_be_planted_is_refused(
    modalities: tuple[Modality, ...], explained: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        planted(PlantedConfig(explained=explained), modalities)


@pytest.mark.parametrize("explained", [{"t1": 1.0}, {"t1": 0.6, "tau": 0.5}, {"t1": -0.1}, {}])
def test_shares_that_leave_no_noise_are_refused(explained: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        PlantedConfig(explained=explained)


def federated_cell(study: StudyConfig) -> Cell:
    return dict(cells(study, dict.fromkeys(study.regimes, ""), "inprocess"))["federated"]


@pytest.mark.parametrize("profile", KNOWN_TRUTH.profiles)
def test_hospitals_of_the_shipped_study_read_every_planted_patient(profile: str, tmp_path: Path) -> None:
    study = at_profile(KNOWN_TRUTH, profile)
    for regime in study.regimes:
        source = data_source(study, regime).planted
        assert source is not None
        visits = planted_visits(source, study.model.modalities)
        write_manifest(visits, tmp_path / "manifest.csv", study.model.modalities)
        columns = OutcomeColumns.of(study.model.score)
        read, left_out = read_manifest(
            tmp_path / "manifest.csv", study.model.modalities, score=study.model.score, columns=columns
        )
        assert len(read) == len(visits) and not left_out.items


def test_a_federation_that_would_leave_patients_out_for_their_outcome_is_refused_and_says_how_many(
    tmp_path: Path,
) -> None:
    values = KNOWN_TRUTH.model_dump(exclude={"profiles"})
    values["model"].pop("score")
    study = parse_config(values, StudyConfig, "study")
    cell = federated_cell(study)
    visits = planted_visits(PlantedConfig(patients=60, explained={"t1": 0.3}), study.model.modalities)
    with pytest.raises(
        ConfigurationError, match=r"leave out \d+ of 60 visits, whose CDR-SB .*`model.score`"
    ) as refused:
        run_cell(cell, visits, tmp_path, tmp_path / "cell")
    write_manifest(visits, tmp_path / "manifest.csv", study.model.modalities)
    _, left_out = read_manifest(tmp_path / "manifest.csv", study.model.modalities)
    [number] = re.findall(r"leave out (\d+)", str(refused.value))
    assert int(number) == len(left_out.items) > 0
