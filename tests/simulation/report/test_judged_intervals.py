"""What is judged of a cell with spreads: the intervals that a person would get from the same model, visit by visit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from permmoe.calibration.calibrate import calibrate
from permmoe.calibration.intervals import LEVELS
from permmoe.config import parse_config
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData, fit_scaling
from permmoe.data.visits import Visit, VisitTable
from permmoe.ensemble import Ensemble
from permmoe.errors import DataError
from permmoe.modality import all_combinations, combination_name
from permmoe.predict import TrainedModel, predict
from permmoe.training.fit import fit
from permmoe.training.seeds import make_model
from permmoe_simulation.report.coverage import COVERAGE, coverage_of, coverage_section
from permmoe_simulation.report.judged_intervals import judged_intervals
from permmoe_simulation.studies.cell import run_cell, split_and_partition
from permmoe_simulation.studies.cell_files import CALIBRATION, PREDICTIONS, FinishedCell, read_spread
from permmoe_simulation.studies.members import member_cells
from permmoe_simulation.studies.method_runners import joined
from permmoe_simulation.studies.study import Cell, StudyConfig, cells
from tests.support.report_page import texts, view
from tests.support.tiny_federation import MODEL
from tests.support.tiny_study import METHODS, settings

COMBINATIONS = all_combinations(MODEL.names)
TRAIN = {"epochs": 6, "validate_every": 6, "batch_size": 32, "learning_rate": 1e-2, "keep": "last"}
MODALITIES = [
    m.model_dump(mode="json") | {"means": [0.0] * len(m.columns), "deviations": [1.0] * len(m.columns)}
    for m in MODEL.modalities
]
"""With their scales declared, as a federation needs it."""


def patients() -> VisitTable:
    """At three sites, with some modalities missing; who measures high in the first column is hard to predict."""
    rng, visits = np.random.default_rng(5), []
    for i in range(330):
        numbers = {m.name: tuple(float(v) for v in rng.normal(size=len(m.columns))) for m in MODEL.modalities}
        baseline = float(rng.integers(1, 14)) / 2
        change = numbers["clinical"][1] + np.exp(0.9 * numbers["clinical"][0] - 0.5) * float(rng.normal())
        kept = {name: row for name, row in numbers.items() if name == "clinical" or rng.random() < 0.7}
        outcome = float(np.clip(change, -baseline, 18 - baseline))
        visits.append(Visit(f"p{i}", "abc"[i % 3], "bl", baseline, outcome, 24.0, tables=kept))
    return VisitTable(tuple(visits))


VISITS = patients()


def cell_of(method: str = "centralised", spread: str = "gaussian", members: int = 1) -> Cell:
    own = METHODS[method] | {"train": TRAIN, "members": members}
    model = MODEL.model_dump(mode="json") | {"modalities": MODALITIES, "spread": spread}
    changed = settings(model=model, methods={"own": own}, comparisons=[], claims=[], seeds=[0])
    study = parse_config(
        changed | {"split": {"validation": 0.35, "test": 0.25}, "federation": {"rounds": 2, "min_cell_count": 1}},
        StudyConfig,
        "study",
    )
    return cells(study, dict.fromkeys(study.regimes, "d"), "inprocess")[0][1]


def finished(cell: Cell, folder: Path) -> FinishedCell:
    return FinishedCell("own", "site", 0, run_cell(cell, VISITS, folder / "cache", folder / "cell"))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> FinishedCell:
    return finished(cell_of(), tmp_path_factory.mktemp("single"))


def loaded(table: VisitTable, cell: Cell, cache: Path) -> VisitData:
    return VisitData.load(table, cell.model, VolumeCache(cache))[0]


def intervals_one_by_one(cell: Cell, cache: Path) -> Iterator[dict[str, Any]]:
    """Of the model that `permmoe train` would make and calibrate, what `permmoe predict` says of each test visit."""
    data = loaded(joined(split_and_partition(VISITS, cell)[0]), cell, cache)
    train, validation = data.part("train"), data.part("validation")
    models = []
    for member in member_cells(cell):
        model = make_model(fit_scaling(train, member.model), member.train.seed)
        fit(model, train, validation, member.train)
        models.append(model.eval())
    network = models[0] if len(models) == 1 else Ensemble(models)
    trained = TrainedModel(network, calibration=calibrate(network, validation, source="test"))
    for combination in COMBINATIONS:
        held = [
            replace(v, tables={name: v.tables[name] for name in combination})
            for v in data.part("test").visits
            if set(combination) <= set(v.tables)
        ]
        found, _ = predict(trained, VisitTable(tuple(held)), VolumeCache(cache))
        for visit, prediction in zip(held, found, strict=True):
            for one in prediction.intervals:
                yield {
                    "combination": combination_name(combination), "site": visit.site, "level": one.level,
                    "inside": one.low <= visit.delta_cdrsb <= one.high, "width": one.high - one.low,
                }  # fmt: skip


@pytest.mark.parametrize("members", [1, 2])
def test_intervals_judged_are_those_that_the_trained_model_predicts(
    members: int, single: FinishedCell, tmp_path: Path
) -> None:
    cell = cell_of(members=members)
    ours = coverage_of([finished(cell, tmp_path) if members > 1 else single]).set_index(
        ["combination", "site", "level"]
    )
    slow = pd.DataFrame(list(intervals_one_by_one(cell, tmp_path / "cache")))
    places = [((c, "all"), slow["combination"] == c) for c in slow["combination"].unique()]
    places += [(("mean", s), slow["site"] == s) for s in "abc"] + [(("mean", "all"), slow["site"] != "")]
    assert len(places) == len(COMBINATIONS) + 4 and len(ours) == len(LEVELS) * len(places)
    for key, of_them in places:
        for level in LEVELS:
            own, row = slow[of_them & (slow["level"] == level)], ours.loc[(*key, level)]
            assert row["n"] == len(own) > 0 and row["scale"] == "spread"
            assert row["coverage"] == pytest.approx(own["inside"].mean())
            assert row["width"] == pytest.approx(own["width"].mean(), rel=1e-5)


@pytest.mark.parametrize("method", ["centralised", "local", "federated"])
def test_every_method_that_is_a_model_keeps_the_spread_beside_each_prediction(method: str, tmp_path: Path) -> None:
    done = finished(cell_of(method), tmp_path)
    plain = finished(cell_of(method, spread="none"), tmp_path / "plain")
    for file in (PREDICTIONS, CALIBRATION):
        spread, before = read_spread(done.folder, file), read_spread(plain.folder, file)
        assert before is None and spread is not None and np.nanstd(spread) > 1e-3
        with np.load(done.folder / file) as ours, np.load(plain.folder / file) as theirs:
            assert set(ours) - set(theirs) == {"spread"}
            assert all(np.array_equal(ours[key], theirs[key], equal_nan=key == "prediction") for key in theirs)


def test_a_site_without_a_modality_has_the_spread_of_those_that_it_knows_and_one_unit_for_none(tmp_path: Path) -> None:
    """Sites a and b never see what `gene` says; at c nobody lacks it."""
    table = VisitTable(
        tuple(replace(v, tables={n: t for n, t in v.tables.items() if n != "gene" or v.site == "c"}) for v in VISITS)
    )
    cell = cell_of("local")
    sites, _ = split_and_partition(table, cell)
    odd = {v.subject_id for name in ("a", "b") for v in sites[name] if v.split == "test"}
    back = VisitTable(tuple(v if v.subject_id in odd else w for v, w in zip(VISITS, table, strict=True)))
    folder = run_cell(cell, back, tmp_path / "cache", tmp_path / "cell")
    spread = read_spread(folder)
    assert spread is not None
    with np.load(folder / PREDICTIONS) as saved:
        at = {name: column for column, name in enumerate(map(combination_name, COMBINATIONS))}
        lacks = np.isin(saved["site"], ["a", "b"]) & ~np.isnan(saved["prediction"][:, at["gene"]])
    assert 10 < lacks.sum() < len(lacks)
    assert (spread[lacks, at["gene"]] == MODEL.unit_points).all()
    np.testing.assert_array_equal(spread[lacks, at["clinical+gene"]], spread[lacks, at["clinical"]])
    assert not (spread[~lacks, at["gene"]] == MODEL.unit_points).any()


def test_the_spread_makes_intervals_follow_who_is_hard_to_predict(single: FinishedCell, tmp_path: Path) -> None:
    plain = finished(cell_of(spread="none"), tmp_path)
    rows = {name: pd.DataFrame(list(judged_intervals(c))) for name, c in (("with", single), ("without", plain))}
    assert set(rows["with"]["scale"]) == {"spread"} and set(rows["without"]["scale"]) == {"unit"}
    for name, own in rows.items():
        rows[name] = own[(own["combination"] == "clinical") & (own["level"] == 0.95)]
    assert rows["with"]["width_sum"].iloc[0] < 0.95 * rows["without"]["width_sum"].iloc[0]


def test_a_study_without_spreads_has_no_column_more(tmp_path: Path) -> None:
    found = coverage_of([finished(cell_of(spread="none"), tmp_path)])
    assert "scale" not in found.columns
    with np.load(tmp_path / "cell" / PREDICTIONS) as saved:
        assert set(saved) == {"subject", "site", "baseline", "target", "prediction"}


def without_spread(cell: FinishedCell, folder: Path, *files: str) -> FinishedCell:
    """The cell as an earlier version left it."""
    return changed(cell, folder, lambda columns: columns.pop("spread") is not None, *files)


def changed(cell: FinishedCell, folder: Path, change: Any, *files: str) -> FinishedCell:
    folder.mkdir()
    for path in cell.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for file in files:
        with np.load(folder / file) as saved:
            columns = dict(saved)
        change(columns)
        np.savez(folder / file, **columns)
    return replace(cell, folder=folder)


def test_cells_of_an_earlier_version_are_judged_in_units_and_the_report_says_in_which_seeds(
    single: FinishedCell, small: Path, tmp_path: Path
) -> None:
    old = without_spread(single, tmp_path / "old", PREDICTIONS, CALIBRATION)
    assert read_spread(old.folder) is None
    assert {row["scale"] for row in judged_intervals(old)} == {"unit"}
    found = coverage_of([single, replace(old, seed=1)])
    assert set(found["scale"]) == {"spread and unit"}
    told = written(found, small)
    assert "Intervals of PerM-MoE (not in all seeds) reach farther where the method expects a larger error" in told
    assert "reach farther" not in written(coverage_of([old]), small)


def written(found: pd.DataFrame, folder: Path) -> str:
    """The section of a study with these rows, as text."""
    of_both = found[~found["combination"].str.contains("fluid")]
    names = of_both["combination"].str.replace("clinical", "t1").str.replace("gene", "tau")
    COVERAGE.write(of_both.assign(combination=names, method="permmoe", regime="structural"), folder)
    return texts(coverage_section(view(folder)))


def set_at(value: float) -> Any:
    def change(columns: dict[str, np.ndarray]) -> None:
        columns["spread"][~np.isnan(columns["spread"])] = value

    return change


DAMAGE = {
    "zero": (set_at(0.0), "not above zero"),
    "negative": (set_at(-1.0), "not above zero"),
    "infinite": (set_at(np.inf), "not above zero"),
    "missing": (set_at(np.nan), "not above zero beside each prediction and missing where there is none"),
    "filled": (lambda c: c.update(spread=np.ones_like(c["spread"])), "missing where there is none"),
    "short": (lambda c: c.update(spread=c["spread"][1:]), "not one number beside each prediction"),
    "text": (lambda c: c.update(spread=c["spread"].astype(str)), "not one number beside each prediction"),
    "objects": (lambda c: c.update(spread=c["spread"].astype(object)), "cannot be read"),
}


@pytest.mark.parametrize("file", [PREDICTIONS, CALIBRATION])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_spread_is_refused_with_its_file_and_a_way_out(
    damage: str, file: str, single: FinishedCell, tmp_path: Path
) -> None:
    change, words = DAMAGE[damage]
    broken = changed(single, tmp_path / "broken", change, file)
    with pytest.raises(DataError, match=rf"spreads in .*{file} .*{words}.*; delete the folder .*broken and run"):
        coverage_of([broken])


def test_bytes_that_changed_on_the_disk_are_refused(single: FinishedCell, tmp_path: Path) -> None:
    broken = changed(single, tmp_path / "broken", lambda columns: None, PREDICTIONS)
    whole = bytearray((broken.folder / PREDICTIONS).read_bytes())
    whole[whole.index(b"spread.npy") + 400] ^= 1
    (broken.folder / PREDICTIONS).write_bytes(bytes(whole))
    with pytest.raises(DataError, match="cannot be read; delete the folder"):
        coverage_of([broken])


@pytest.mark.parametrize("file", [PREDICTIONS, CALIBRATION])
def test_spreads_of_one_part_of_the_visits_alone_are_refused(file: str, single: FinishedCell, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of its test or of its validation visits, and not of both; delete"):
        coverage_of([without_spread(single, tmp_path / "half", file)])
