"""Imputation drift."""

from __future__ import annotations

from pathlib import Path

import pytest

from permmoe_simulation.report.drift import drift_sentence
from permmoe_simulation.report.experts import experts_section
from tests.support.report_page import texts, view
from tests.support.study_files import write_drift, write_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path, methods=("permmoe", "flexmoe", "local", "null"))


def test_drift_names_its_size_and_where_it_is_largest_and_leaves_out_who_sees_no_image(study: Path) -> None:
    write_drift(study)
    sentence = drift_sentence(view(study), "structural", ["permmoe", "null"])
    assert "PerM-MoE +0.15 CDR-SB points averaged over combinations (95% interval 0.05 to 0.25, n = 29)" in sentence
    assert (
        "worse beyond chance in 1 of 2 combinations, most with t1 (+0.30)" in sentence
        and "null" not in sentence.lower()
    )
    assert "Imputation drift" in texts(experts_section(view(study)))
