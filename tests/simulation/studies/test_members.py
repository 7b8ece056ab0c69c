"""Ensembles: one member is the method itself, several are averaged, and what all of them cost is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from permmoe.config import parse_config
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError
from permmoe_simulation.studies.cell import run_cell
from permmoe_simulation.studies.cell_files import CALIBRATION, CellOutcome, Predicted, read_predictions, read_spread
from permmoe_simulation.studies.members import COSTS_OF_ROUND, COSTS_OF_SITE, averaged, member_cells
from permmoe_simulation.studies.sources import prepare_data
from permmoe_simulation.studies.study import Cell, StudyConfig, cells, cells_trained_again
from tests.support.tiny_study import METHODS, QUIET, settings

pytestmark = pytest.mark.xdist_group("study")


def study(members: int, method: str = "centralised", **changes: Any) -> StudyConfig:
    own = {method: METHODS[method] | {"members": members, "train": {"epochs": 1}, "federation": {"rounds": 2}}}
    return parse_config(
        settings(**{"methods": own, "comparisons": [], "claims": [], **changes}), StudyConfig, "study.yaml"
    )


def cell_of(members: int, method: str = "centralised", **changes: Any) -> Cell:
    made = study(members, method, **changes)
    return cells(made, dict.fromkeys(made.regimes, "d"), "inprocess")[0][1]


def visits(n: int) -> VisitTable:
    return VisitTable(tuple(Visit(f"p{i}", "a", "m0", 1.0, 0.5, 24.0) for i in range(n)))


def round_row(number: int, site: str | None, value: int) -> dict[str, Any]:
    costs = {name: value + place for place, name in enumerate(COSTS_OF_SITE)}
    return {"round": number, "site": site, **costs, **dict.fromkeys(COSTS_OF_ROUND, 1000.0 * value)}


def outcome(predictions: np.ndarray, **changes: Any) -> CellOutcome:
    return CellOutcome(visits(len(predictions)), predictions, **changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[VisitTable, Path]:
    plain = study(1)
    data = prepare_data(plain.data, plain.model, tmp_path_factory.mktemp("members"), 1, QUIET)
    return VisitTable(data.visits.visits[::2]), data.cache


def test_what_members_predict_is_averaged_and_what_one_lacks_the_ensemble_lacks() -> None:
    generator = np.random.default_rng(0)
    members = [generator.normal(size=(7, 3)) for _ in range(5)]
    members[0][2, 1] = members[3][5, 0] = np.nan
    own = [outcome(m, calibration=Predicted(visits(7), 10 * m), learning=[{"step": i}]) for i, m in enumerate(members)]
    found = averaged(own)
    for row in range(7):
        for column in range(3):
            mean = sum(m[row, column] for m in members) / 5
            np.testing.assert_allclose(found.predictions[row, column], mean, rtol=1e-12)
            assert found.calibration is not None
            np.testing.assert_allclose(found.calibration.predictions[row, column], 10 * mean, rtol=1e-12)
    assert np.isnan(found.predictions).sum() == 2
    assert found.learning == [{"step": 0}]


def test_the_spread_of_an_ensemble_is_that_of_its_members_mixture_and_of_those_that_have_none_none() -> None:
    generator = np.random.default_rng(1)
    means, spreads = generator.normal(size=(3, 7, 5)), generator.uniform(0.2, 2, size=(3, 7, 5))
    means[1, 2, 4] = spreads[1, 2, 4] = np.nan
    own = [
        outcome(m, spread=s, calibration=Predicted(visits(7), 10 * m, 10 * s))
        for m, s in zip(means, spreads, strict=True)
    ]
    found = averaged(own)
    assert found.spread is not None and found.calibration is not None and found.calibration.spread is not None
    for row in range(7):
        for column in range(5):
            # The SD of a draw from a member that is drawn first: E[x²] − E[x]².
            squares = [m[row, column] ** 2 + s[row, column] ** 2 for m, s in zip(means, spreads, strict=True)]
            sd = np.sqrt(sum(squares) / 3 - (sum(m[row, column] for m in means) / 3) ** 2)
            np.testing.assert_allclose(found.spread[row, column], sd, rtol=1e-12)
            np.testing.assert_allclose(found.calibration.spread[row, column], 10 * sd, rtol=1e-12)
    assert np.isnan(found.spread).sum() == 1
    assert averaged([outcome(m) for m in means]).spread is None


def test_one_member_is_the_method_itself() -> None:
    only = outcome(np.array([[0.1, np.nan]], dtype=np.float32), rounds=[round_row(1, None, 3)])
    assert averaged([only]) is only


def test_members_that_judged_different_visits_are_not_averaged() -> None:
    own = outcome(np.zeros((3, 1)))
    other = CellOutcome(VisitTable(tuple(reversed(own.test.visits))), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="the same visits in the same order"):
        averaged([own, other])


def test_costs_of_members_add_up_by_round_and_site_and_those_of_a_round_once_a_member() -> None:
    first = [round_row(1, "a", 3), round_row(1, "b", 5), round_row(2, "a", 7)]
    second = [round_row(1, "a", 11), round_row(2, "b", 13), round_row(2, "a", 17)]
    found = averaged([outcome(np.zeros((1, 1)), rounds=rows) for rows in (first, second)]).rounds
    assert [(row["round"], row["site"]) for row in found] == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    whole = pd.DataFrame(first + second)
    for name in COSTS_OF_SITE:
        sums = whole.groupby(["round", "site"])[name].sum()
        assert [row[name] for row in found] == sums.tolist()
    # A round's own columns repeat for each of its sites: rounds of 3000 and 11000 s, and of 7000 and 13000 or 17000.
    assert {row["round_seconds"] for row in found if row["round"] == 1} == {5000.0 + 11000.0}


def test_members_and_second_trainings_all_have_seeds_of_their_own() -> None:
    own = study(20, seeds=range(5), comparisons=[["centralised", "centralised"]])
    grid = [*cells(own, {"site": "d"}, "inprocess"), *cells_trained_again(own, {"site": "d"}, "inprocess")]
    assert len(grid) == 10
    seeds = [member.train.seed for _, cell in grid for member in member_cells(cell)]
    assert len(set(seeds)) == 200
    assert [member_cells(cell)[0].train for _, cell in grid] == [cell.train for _, cell in grid]


def test_only_the_number_of_members_makes_another_cell_and_one_member_none() -> None:
    plain = {"centralised": METHODS["centralised"] | {"train": {"epochs": 1}, "federation": {"rounds": 2}}}
    one, three, five = (cell_of(n).digest() for n in (1, 3, 5))
    assert one == cell_of(1, methods=plain).digest()
    assert len({one, three, five}) == 3
    assert "members" not in study(1).canonical_json()


def test_a_method_that_no_seed_changes_has_no_members() -> None:
    with pytest.raises(ConfigurationError, match="no seed changes what kind reference predicts"):
        study(2, "clinical-null")
    assert cell_of(1, "clinical-null").method.members == 1


def test_members_under_differential_privacy_are_refused_before_anything_is_trained() -> None:
    private = {"privacy": {"noise_multiplier": 1.0}, "min_cell_count": 1, "evaluate_every": 0, "centring_round": False}
    with pytest.raises(ConfigurationError, match=r"methods\.federated of study tiny: 3 members with differential"):
        cell_of(3, "federated", federation=private)
    assert cell_of(1, "federated", federation=private).federation.privacy
    # One place has no account that members could overdraw.
    assert cell_of(3, "centralised", federation=private).method.members == 3


def test_an_ensemble_is_the_mean_of_the_cells_that_its_members_would_be(
    made: tuple[VisitTable, Path], tmp_path: Path
) -> None:
    """The first member is the method by itself, bit for bit, whatever folder it worked in."""
    table, cache = made
    model = settings()["model"] | {"spread": "laplace"}
    ensemble, plain = cell_of(2, "federated", model=model), cell_of(1, "federated", model=model)
    done = run_cell(ensemble, table, cache, tmp_path / "ensemble")
    members = [member.model_copy(update={"method": plain.method}) for member in member_cells(ensemble)]
    alone = [run_cell(member, table, cache, tmp_path / str(i)) for i, member in enumerate(members)]
    assert members[0].digest() == plain.digest()
    for file in ("predictions.npz", CALIBRATION):
        ours, (first, second) = read_predictions(done, file), (read_predictions(one, file) for one in alone)
        names = [name for name in ours if name not in ("subject", "site", "baseline", "target")]
        pd.testing.assert_frame_equal(ours[names], (first[names] + second[names]) / 2, check_exact=True)
        assert not first[names].equals(second[names])
        spread, *parts = (read_spread(folder, file) for folder in (done, *alone))
        apart = ((first[names] - second[names]) / 2).to_numpy()
        np.testing.assert_allclose(spread, np.sqrt((parts[0] ** 2 + parts[1] ** 2) / 2 + apart**2), rtol=1e-12)
    costs = [pd.read_csv(folder / "rounds.csv") for folder in (done, *alone)]
    for name in ("bytes_down", "bytes_up", "modules"):
        total, *parts = (own.groupby(["round", "site"])[name].sum() for own in costs)
        assert (total == parts[0] + parts[1]).all() and (total > 0).all()
    assert not (done / "federation").exists()
