"""Who withdraws in a study, and that a federation trained anew without them is one that never had them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from permmoe.config import parse_config
from permmoe.data.cache import VolumeCache
from permmoe.errors import ConfigurationError
from permmoe_simulation.studies.cell import run_cell, split_and_partition
from permmoe_simulation.studies.cell_files import TRAINED, WITHDREW, read_predictions
from permmoe_simulation.studies.forgotten import GROUP, forgotten, trained_by_site, without
from permmoe_simulation.studies.method_runners import run_federated
from permmoe_simulation.studies.sources import prepare_data
from permmoe_simulation.studies.study import Cell, StudyConfig, cells
from tests.support.tiny_study import QUIET, settings

pytestmark = pytest.mark.xdist_group("study")

SITES = {
    name: [f"{name}{i:02}" for i in range(n)] for name, n in (("a", 23), ("b", 9), ("c", 40), ("d", 61), ("e", 47))
}
METHODS: dict[str, dict[str, Any]] = {
    "kept": {"kind": "forgetting", "label": "kept", "forgets": {"who": "nobody"}},
    "federated": {"kind": "federated", "label": "federated"},
    "anew": {"kind": "forgetting", "label": "anew", "forgets": {"who": "hospital"}},
    "on": {"kind": "forgetting", "label": "on", "forgets": {"who": "hospital", "continued_rounds": 2}},
}


def study(**changes: Any) -> StudyConfig:
    own = {"methods": METHODS, "seeds": [0], "comparisons": [], "claims": [], **changes}
    return parse_config(settings(**own), StudyConfig, "a study of this test")


@pytest.mark.parametrize("seed", range(20))
def test_five_of_a_hospital_withdraw_together_and_as_many_stay(seed: int) -> None:
    five, twentieth = (forgotten(SITES, who, seed) for who in ("five", "twentieth"))
    assert [len(gone) for gone in five.values()] == [GROUP] and "b" not in {*five, *twentieth}
    assert [len(gone) for gone in twentieth.values()] == [GROUP] * 2, "a twentieth of 180"
    assert all(gone <= {*SITES[site]} for found in (five, twentieth) for site, gone in found.items())
    [(site, everybody)] = forgotten(SITES, "hospital", seed).items()
    assert everybody == {*SITES[site]} and forgotten(SITES, "nobody", seed) == {}


def test_who_withdraws_depends_on_patients_and_seed_and_not_on_their_order() -> None:
    turned = {name: SITES[name][::-1] for name in reversed(SITES)}
    for who in ("five", "twentieth", "hospital"):
        assert forgotten(SITES, who, 3) == forgotten(turned, who, 3)
        assert len({str(sorted(forgotten(SITES, who, seed).items())) for seed in range(20)}) > 3


def test_too_few_patients_are_an_error() -> None:
    with pytest.raises(ConfigurationError, match="5 patients are to withdraw, 5 of a hospital, and 0 hosp"):
        forgotten({"a": ["p1", "p2"]}, "five", 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "federated"}, "goes with kind: forgetting"),
        ({"forgets": None}, "goes with kind: forgetting"),
        ({"forgets": {"who": "nobody", "continued_rounds": 2}}, "leave it out where nobody withdraws"),
        ({"members": 2}, "one model forgets"),
        ({"federation": {"private_modules": ["head"]}}, "a federation that forgets is plain"),
    ],
)
def test_a_method_that_could_not_forget_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        found = study(methods={"anew": METHODS["anew"] | changes})
        cells(found, {"site": ""}, "inprocess")


def test_a_federation_forgets_as_if_it_had_never_had_them_and_one_trained_on_does_not(tmp_path: Path) -> None:
    declared = study()
    data = prepare_data(declared.data, declared.model, tmp_path, 1, QUIET)
    found = dict(cells(declared, {"site": data.digest}, "inprocess"))
    folders = {name: run_cell(cell, data.visits, data.cache, tmp_path / name) for name, cell in found.items()}
    predictions = {name: read_predictions(folder) for name, folder in folders.items()}
    pd.testing.assert_frame_equal(predictions["kept"], predictions["federated"])
    trained = {name: np.load(folders[name] / TRAINED) for name in ("kept", "anew", "on")}
    cell: Cell = found["anew"]
    sites, _ = split_and_partition(data.visits, cell)
    [(site, gone)] = forgotten(trained_by_site(sites), "hospital", cell.seed).items()
    for name in ("anew", "on"):
        saved = trained[name]
        assert {*saved["subject"][saved[WITHDREW]]} == gone and {*saved["site"][saved[WITHDREW]]} == {site}
    assert not trained["kept"][WITHDREW].any()
    # The reference: a partition in which the hospital had no training or validation visit from the start.
    never = without(sites, {site: gone}, "hospital")
    (tmp_path / "never").mkdir()
    reference = run_federated(found["federated"], never, VolumeCache(data.cache), tmp_path / "never", "cpu")
    assert np.array_equal(reference.predictions, predictions["anew"].iloc[:, 4:].to_numpy(), equal_nan=True), (
        "trained anew"
    )
    assert not np.array_equal(predictions["on"].iloc[:, 4:], predictions["anew"].iloc[:, 4:], equal_nan=True)
    rounds = {name: pd.read_csv(folders[name] / "rounds.csv", dtype={"site": str}) for name in ("anew", "on")}
    assert {*rounds["anew"]["round"]} == {1, 2, 3} and {*rounds["on"]["round"]} == {4, 5}
    assert all(site not in {*own["site"]} for own in rounds.values())
