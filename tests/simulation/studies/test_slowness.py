"""What is drawn of slow hospitals, and federations in simulated time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from permmoe.config import parse_config
from permmoe.data.visits import VisitTable
from permmoe.errors import ConfigurationError
from permmoe_simulation.engines.federated_training import TrainedFederation, train_federation
from permmoe_simulation.engines.grid import FIRST_NODE
from permmoe_simulation.studies.cell import split_and_partition
from permmoe_simulation.studies.partition import PartitionConfig
from permmoe_simulation.studies.slowness import Slowness, drawn_pace, slow_sites
from permmoe_simulation.studies.sources import prepare_data
from permmoe_simulation.studies.study import Cell, StudyConfig, cells
from tests.support.tiny_study import METHODS, QUIET, settings

NAMES = tuple(f"site{i}" for i in range(7))
SLOW = {"slow_sites": 2, "factor": 3.0, "spread": 0.2}


def test_a_seed_draws_the_same_whatever_was_drawn_before() -> None:
    config = Slowness(spread=0.5, absence=0.3)
    once, again = (drawn_pace(config, NAMES, seed=5) for _ in range(2))
    rounds = [(FIRST_NODE + i, number) for i in range(7) for number in range(1, 5)]
    assert [once(*r) for r in rounds] == [again(*r) for r in reversed(rounds)][::-1]
    assert [once(*r) for r in rounds] != [drawn_pace(config, NAMES, seed=6)(*r) for r in rounds]


def test_slow_sites_take_longer_by_their_factor_and_others_do_not() -> None:
    config = Slowness(slow_sites=3, factor=5.0, round_seconds=60.0, spread=0.0)
    pace, slow = drawn_pace(config, NAMES, seed=1), slow_sites(config, NAMES, seed=1)
    assert len(slow) == 3
    assert {name: pace(FIRST_NODE + i, 4) for i, name in enumerate(NAMES)} == {
        name: 300.0 if name in slow else 60.0 for name in NAMES
    }


def test_sites_are_away_as_often_as_is_said_and_never_in_the_first_round() -> None:
    pace = drawn_pace(Slowness(absence=0.25), NAMES, seed=2)
    assert all(pace(FIRST_NODE + i, 1) is not None for i in range(7))
    away = [pace(FIRST_NODE + i, number) is None for i in range(7) for number in range(2, 302)]
    assert np.mean(away) == pytest.approx(0.25, abs=0.03)


def test_without_slowness_a_partition_has_the_digest_that_it_had() -> None:
    assert "slowness" not in PartitionConfig().model_dump()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[VisitTable, Path]:
    study = parse_config(settings(), StudyConfig, "study")
    data = prepare_data(study.data, study.model, tmp_path_factory.mktemp("slow"), 1, QUIET)
    return data.visits, data.cache


def cell_of(slowness: dict[str, Any] | None, engine: str = "inprocess", **federation: Any) -> Cell:
    method = METHODS["federated"] | {"federation": {"rounds": 5, "evaluate_every": 0, **federation}}
    regime = {"kind": "site", **({"slowness": slowness} if slowness else {})}
    changed = settings(methods={"federated": method}, regimes={"site": regime}, comparisons=[], claims=[])
    study = parse_config(changed, StudyConfig, "study")
    return cells(study, dict.fromkeys(study.regimes, "d"), engine)[0][1]


def federated(cell: Cell, made: tuple[VisitTable, Path], folder: Path) -> TrainedFederation:
    return train_federation(cell, split_and_partition(made[0], cell)[0], made[1], folder)


def weights(trained: TrainedFederation) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in trained.weights.items()}


def test_a_federation_that_waits_for_all_ends_with_the_same_bits_however_slow_its_sites_are(
    made: tuple[VisitTable, Path], tmp_path: Path
) -> None:
    at_once = weights(federated(cell_of(None), made, tmp_path / "at-once"))
    slow = federated(cell_of(SLOW), made, tmp_path / "slow")
    assert all(np.array_equal(at_once[name], own) for name, own in weights(slow).items())
    rows = pd.DataFrame(slow.rounds)
    assert (rows["staleness"] == 0).all() and (rows["round_seconds"] > 120).all()


def test_a_federation_in_simulated_time_ends_twice_with_the_same_bits_and_late_updates_count(
    made: tuple[VisitTable, Path], tmp_path: Path
) -> None:
    cell = cell_of(SLOW, close_after=0.6, max_staleness=3)
    once, again = (federated(cell, made, tmp_path / name) for name in ("once", "again"))
    assert all(np.array_equal(own, weights(again)[name]) for name, own in weights(once).items())
    rows, names = pd.DataFrame(once.rounds), sorted({row["site"] for row in once.rounds})
    assert rows.groupby("round").size().eq(len(names)).all() and "" not in names
    late = rows[rows["staleness"] > 0]
    assert len(late) and set(late["site"]) & slow_sites(Slowness(**SLOW), names, cell.seed)
    assert rows["staleness"].isna().any() and rows.loc[rows["round"] > 1, "round_seconds"].max() < 120
    # Every update counts once at most.
    begun = rows.assign(begun=rows["round"] - rows["staleness"]).dropna(subset="staleness")
    assert not begun.duplicated(["site", "begun"]).any()


def test_ray_simulates_no_time(made: tuple[VisitTable, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="are slow need the engine 'inprocess'"):
        federated(cell_of(SLOW, engine="ray"), made, tmp_path)
