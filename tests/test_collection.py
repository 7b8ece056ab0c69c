"""The page of findings: every study with its command, its digests and its differences."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from study_files import write_study

from permmoe.errors import DataError
from permmoe_simulation.report.collection import collected


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_study(tmp_path)
    comparisons = pd.read_csv(tmp_path / "comparisons.csv")
    comparisons.assign(p_holm=0.01).to_csv(tmp_path / "comparisons.csv", index=False)
    return tmp_path


def test_every_study_stands_there_with_its_command_its_digests_and_its_findings(study: Path) -> None:
    summary = json.loads((study / "summary.json").read_text())
    text = collected([study])
    assert f"## {summary['study']}" in text and summary["command"] in text and "synthetic data" in text
    assert all(value[:8] in text for value in summary["digests"].values())
    assert all(finding in text for finding in summary["findings"])


def test_every_pair_has_a_row_for_each_regime(study: Path) -> None:
    pairs = pd.read_csv(study / "comparisons.csv")[["method", "reference", "regime"]].drop_duplicates()
    rows = [line for line in collected([study]).splitlines() if line.startswith("| ") and " − " in line.split("|")[1]]
    assert len(rows) == len(pairs)


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the study first"):
        collected([tmp_path])
