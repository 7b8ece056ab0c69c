"""Digests change with every bit that a study computes, and not with times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import typer

from permmoe.config import read_config
from permmoe.errors import ConfigurationError
from permmoe.federated.aggregation_rules import RULES
from permmoe.federated.federation_config import FederationConfig
from permmoe_benchmarks import same_bits
from permmoe_simulation.studies.study import StudyConfig, cells

CELL = {"method": {"label": "plain"}, "regime": "dealt", "seed": 3}


def write_study(
    folder: Path, *, prediction: float = 1.5, seconds: float = 2.0, sent: int = 7, came: int = 9, secure: bool = False
) -> Path:
    """A study's folder with one cell."""
    cell = folder / "cells" / "ab12"
    cell.mkdir(parents=True)
    (cell / "card.json").write_text(
        json.dumps({"cell": CELL | {"federation": {"secure": secure}}, "digest": "ab12", "seconds": seconds})
    )
    np.savez(cell / "predictions.npz", prediction=np.array([[prediction, 0.1]]))
    (cell / "rounds.csv").write_text(f"round,bytes_down,bytes_up,train_seconds\n1,{came},{sent},{seconds}\n")
    (folder / "results.csv").write_text("method,rmse\nplain,1.25\n")
    (folder / "summary.json").write_text(json.dumps({"seconds": seconds, "seeds": [3]}))
    return folder


def test_times_change_no_digest(tmp_path: Path) -> None:
    before = same_bits.study_digests(write_study(tmp_path / "before"))
    after = same_bits.study_digests(write_study(tmp_path / "after", seconds=3.0))
    assert same_bits.differences(before, after) == []
    assert {"plain/dealt/3: predictions.npz", "plain/dealt/3: rounds.csv", "results.csv"} <= set(before)


def test_one_bit_of_a_prediction_and_one_byte_sent_are_named(tmp_path: Path) -> None:
    before = same_bits.study_digests(write_study(tmp_path / "before"))
    bit = same_bits.study_digests(write_study(tmp_path / "bit", prediction=float(np.nextafter(1.5, 2.0))))
    assert same_bits.differences(before, bit) == ["plain/dealt/3: predictions.npz: differs"]
    byte = same_bits.study_digests(write_study(tmp_path / "byte", sent=8))
    assert same_bits.differences(before, byte) == ["plain/dealt/3: rounds.csv: differs"]


def test_bytes_that_come_count_unless_they_carry_signatures(tmp_path: Path) -> None:
    for secure, found in ((False, ["plain/dealt/3: rounds.csv: differs"]), (True, [])):
        before = same_bits.study_digests(write_study(tmp_path / f"before-{secure}", secure=secure))
        after = same_bits.study_digests(write_study(tmp_path / f"after-{secure}", secure=secure, came=13))
        assert same_bits.differences(before, after) == found


def test_a_column_of_times_that_is_gone_is_a_difference(tmp_path: Path) -> None:
    table, shorter = tmp_path / "a.csv", tmp_path / "b.csv"
    table.write_text("round,train_seconds\n1,2.0\n")
    shorter.write_text("round\n1\n")
    assert same_bits.table_digest(table) != same_bits.table_digest(shorter)


def test_what_is_missing_and_what_is_new_is_named() -> None:
    assert same_bits.differences({"a": "1", "b": "2"}, {"b": "2", "c": "3"}) == ["a: is missing", "c: is new"]


def test_two_runs_that_are_done_are_compared_without_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, digest in (("before", "1"), ("same", "1"), ("after", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / same_bits.DIGESTS).write_text(json.dumps({"results.csv": digest}))
    same_bits.same_bits(digests=tmp_path / "same", against=tmp_path / "before")
    assert "all bits are equal" in capsys.readouterr().out
    with pytest.raises(typer.Exit) as end:
        same_bits.same_bits(digests=tmp_path / "after", against=tmp_path / "before")
    assert end.value.exit_code == 1
    assert "results.csv: differs" in capsys.readouterr().out


def test_a_folder_of_something_else_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("draft")
    with pytest.raises(ConfigurationError, match="holds no earlier run"):
        same_bits.run_and_digest(tmp_path, 1)
    assert (tmp_path / "thesis.tex").exists()


def test_a_folder_without_digests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"holds no digests\.json"):
        same_bits.same_bits(against=tmp_path)


@pytest.mark.parametrize(
    ("setting", "choices"),
    [
        ("aggregation", set(RULES)),
        *(
            (name, set(get_args(FederationConfig.model_fields[name].annotation)))
            for name in ("server_optimiser", "wire")
        ),
    ],
)
def test_the_study_has_every_choice_of_a_federation(setting: str, choices: set[str]) -> None:
    study = read_config(same_bits.STUDY, StudyConfig)
    grid = cells(study, dict.fromkeys(study.regimes, ""), "inprocess")
    assert {getattr(cell.federation, setting) for _, cell in grid} == choices


def test_the_methods_whose_weights_are_compared_are_in_the_study() -> None:
    assert set(same_bits.WEIGHED_METHODS) <= set(read_config(same_bits.STUDY, StudyConfig).methods)
