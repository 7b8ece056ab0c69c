"""Imputation drift."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from permmoe_simulation.report.drift import drift_sentence
from permmoe_simulation.report.experts import experts_section
from tests.support.report_page import texts, view
from tests.support.study_files import write_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path, methods=("permmoe", "flexmoe", "local", "null"))


def write_drift(folder: Path) -> None:
    rows = [{"method": m, "regime": "structural", "combination": c, "n": 29, "difference": d, "lower": d - 0.1,
             "upper": d + 0.1}
            for m, far in (("permmoe", 0.3), ("null", 0.0)) for c, d in (("mean", far / 2), ("t1", far), ("tau", 0.0))
            ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "drift.csv", index=False)


def test_drift_names_its_size_and_where_it_is_largest_and_leaves_out_who_sees_no_image(study: Path) -> None:
    write_drift(study)
    told = drift_sentence(view(study), "structural", ["permmoe", "null"])
    assert "PerM-MoE +0.15 CDR-SB points averaged over combinations (95% interval 0.05 to 0.25, n = 29)" in told
    assert "worse beyond chance in 1 of 2 combinations, most with t1 (+0.30)" in told and "null" not in told.lower()
    assert "Imputation drift" in texts(experts_section(view(study)))
