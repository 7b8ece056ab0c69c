"""The kinds of methods on public tables: scales come from training visits alone, and units play no role."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from permmoe.config import parse_config, read_config
from permmoe.data.cache import VolumeCache
from permmoe.data.public_tables import TABLES, table_visits
from permmoe.data.splits import assign_splits
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError
from permmoe_simulation.studies.cell import run_cell, split_and_partition
from permmoe_simulation.studies.cell_files import read_predictions
from permmoe_simulation.studies.method_runners import run_reference
from permmoe_simulation.studies.partition import PartitionConfig
from permmoe_simulation.studies.sources import prepare_data
from permmoe_simulation.studies.study import Cell, StudyConfig, cells
from tests.support.tiny_study import QUIET

GROUPS = {"person": ("age", "sex"), "body": ("bmi", "bp"), "lipids": ("tc", "ldl", "hdl", "tch")}
KINDS: dict[str, dict[str, Any]] = {
    "centralised": {"kind": "centralised", "label": "centralised"},
    "unimodal": {"kind": "unimodal", "label": "unimodal"},
    "local": {"kind": "local", "label": "local"},
    "kernel-ridge": {"kind": "reference", "label": "kernel ridge", "baseline": "kernel_ridge"},
    "late-fusion": {"kind": "late_fusion", "label": "late fusion"},
    "local-kernel-ridge": {"kind": "local_reference", "label": "local kernel ridge", "baseline": "kernel_ridge"},
    "federated": {"kind": "federated", "label": "federated"},
}
WITHOUT: dict[str, dict[str, Any]] = {
    f"{name}-without": {**KINDS[name], "withheld": ["lipids"]} for name in ("centralised", "kernel-ridge")
}
STUDIES = sorted((Path(__file__).parents[3] / "configs" / "studies" / "other-modalities").glob("*.yaml"))


def study(**changes: Any) -> StudyConfig:
    modalities = [{"name": name, "kind": "tabular", "columns": columns} for name, columns in GROUPS.items()]
    small = {"width": 8, "heads": 2, "experts": 5, "top_k": 2, "expert_hidden": 7, "head_hidden": 11}
    values = {
        "name": "tables",
        "description": "A public table.",
        "data": {"table": "diabetes"},
        "model": {"modalities": modalities, "baseline_centre_points": 0, **small},
        "train": {"epochs": 3, "batch_size": 16, "warmup_epochs": 1},
        "seeds": [0],
        "methods": KINDS | WITHOUT,
        **changes,
    }
    return parse_config(values, StudyConfig, "study")


def cell_of(kind: str) -> Cell:
    made = study()
    return next(c for name, c in cells(made, dict.fromkeys(made.regimes, "d"), "inprocess") if name == kind)


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> VisitTable:
    """Every fourth patient of the diabetes table."""
    made = study()
    data = prepare_data(made.data, made.model, tmp_path_factory.mktemp("data"), 1, QUIET)
    assert not data.quarantine.items
    return VisitTable(data.visits.visits[::4])


def rescaled(visit: Visit) -> Visit:
    return replace(visit, tables={name: tuple(1000 * v - 7 for v in values) for name, values in visit.tables.items()})


def predictions(kind: str, visits: VisitTable, folder: Path) -> pd.DataFrame:
    return read_predictions(run_cell(cell_of(kind), visits, folder, folder / "cell")).set_index("subject")


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "federated"])
def test_units_of_the_columns_play_no_role(kind: str, visits: VisitTable, tmp_path: Path) -> None:
    before = predictions(kind, visits, tmp_path / "before")
    after = predictions(kind, VisitTable(tuple(map(rescaled, visits))), tmp_path / "after")
    np.testing.assert_allclose(after["body"], before["body"], atol=1e-3)
    assert np.isfinite(before["body"]).all() and before["body"].std() > 1e-3


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "federated"])
def test_what_a_test_visit_measures_changes_no_other_prediction(kind: str, visits: VisitTable, tmp_path: Path) -> None:
    parts = assign_splits(visits, cell_of(kind).split)
    odd, *others = [v.subject_id for v in parts if v.split == "test"]
    changed = visits_with(visits, odd, rescaled)
    before, after = predictions(kind, visits, tmp_path / "a"), predictions(kind, changed, tmp_path / "b")
    np.testing.assert_allclose(after.loc[others, "body"], before.loc[others, "body"], rtol=1e-6)
    assert after.loc[odd, "body"] != before.loc[odd, "body"]


@pytest.mark.parametrize("kind", WITHOUT)
def test_a_method_without_a_modality_sees_no_number_of_it_and_judges_the_same_patients(
    kind: str, visits: VisitTable, tmp_path: Path
) -> None:
    def other_lipids(visit: Visit) -> Visit:
        lipids = tuple(-3 * number + 11 for number in visit.tables["lipids"])
        return replace(visit, tables={**visit.tables, "lipids": lipids})

    before = predictions(kind, visits, tmp_path / "before")
    after = predictions(kind, VisitTable(tuple(map(other_lipids, visits))), tmp_path / "after")
    pd.testing.assert_frame_equal(before, after)
    by_all = predictions(kind.removesuffix("-without"), visits, tmp_path / "all")
    assert by_all.index.equals(before.index) and by_all.notna().equals(before.notna())
    for combination, rest in (("person+lipids", "person"), ("person+body+lipids", "person+body")):
        assert np.array_equal(before[combination], before[rest])
        assert not np.array_equal(by_all[combination], by_all[rest])
    assert before["lipids"].nunique() == 1
    assert cell_of(kind).digest() != cell_of(kind.removesuffix("-without")).digest()


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ({"kind": "federated", "withheld": ["lipids"]}, "withheld goes with kind: centralised or reference"),
        ({"kind": "centralised", "withheld": ["lipid"]}, "withholds 'lipid'; did you mean 'lipids'"),
        ({"kind": "centralised", "withheld": list(GROUPS)}, "withholds all modalities; leave it one at least"),
    ],
)
def test_what_cannot_be_withheld_is_refused(method: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        study(methods={"a": {"label": "a", **method}})


@pytest.mark.parametrize("method", [KINDS["federated"], KINDS["kernel-ridge"]], ids=["federated", "kernel-ridge"])
def test_a_method_that_tells_no_horizon_has_no_model_that_is_told_it(method: dict[str, Any]) -> None:
    made = study(methods={"a": {**method, "model": {"horizons_months": [24, 36]}}})
    with pytest.raises(ConfigurationError, match=r"model\.horizons_months is for models .* leave it out"):
        cells(made, dict.fromkeys(made.regimes, "d"), "inprocess")


def test_a_baseline_at_a_hospital_by_itself_is_the_baseline_of_its_own_visits(
    visits: VisitTable, tmp_path: Path
) -> None:
    cell = cell_of("local-kernel-ridge")
    dealt = cell.model_copy(update={"partition": PartitionConfig(kind="dirichlet", sites=2, alpha=100.0)})
    found = read_predictions(run_cell(dealt, visits, tmp_path, tmp_path / "both")).set_index("subject")
    sites, _ = split_and_partition(visits, dealt)
    one_place = cell_of("kernel-ridge")
    assert len(sites) == 2
    for site, table in sites.items():
        own = run_reference(one_place, {site: table}, VolumeCache(tmp_path), tmp_path, "cpu")
        expected = pd.DataFrame(own.predictions, index=[visit.subject_id for visit in own.test])
        np.testing.assert_allclose(found.loc[expected.index, "body"], expected[list(GROUPS).index("body")])


def visits_with(visits: VisitTable, subject: str, change: Callable[[Visit], Visit]) -> VisitTable:
    return VisitTable(tuple(change(v) if v.subject_id == subject else v for v in visits))


def test_a_federation_whose_scales_nobody_declared_is_refused(visits: VisitTable, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot fit the scale of person, body, lipids; declare `means`"):
        predictions("federated", visits, tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"table": "diabetis"}, "unknown table 'diabetis'; did you mean 'diabetes'"),
        ({"table": "diabetes", "synthetic": {}}, "exactly one of"),
    ],
)
def test_a_source_is_one_known_table_or_something_else(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        study(data=data)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_delivered_study_groups_columns_that_its_table_has_and_names_its_unit(path: Path) -> None:
    delivered = read_config(path, StudyConfig)
    assert 2 <= len(delivered.model.modalities) <= 8
    if delivered.data.table is None:
        assert {m.kind for m in delivered.model.modalities} == {"volume", "tabular"}
        return
    if delivered.data.table not in ("diabetes", "breast-cancer"):
        pytest.importorskip("sksurv")
    visits, _ = table_visits(delivered.data.table, delivered.model.modalities)
    assert len(visits) > 0.95 * TABLES[delivered.data.table].patients
    assert delivered.outcome.unit == TABLES[delivered.data.table].unit
    assert delivered.model.baseline_centre_points == 0 and "not synthetic" in delivered.description
