"""What a report is made from: files that are missing, and files that cannot be understood."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from permmoe.errors import DataError
from permmoe_simulation.report import render_report
from permmoe_simulation.report.page import page
from permmoe_simulation.report.sites import SITES
from tests.support.report_page import Page, page_of, study_of

OPTIONAL = ("comparisons.csv", "rounds.csv", "learning.csv", "activation.csv", "routing.csv", "sites.csv", "slices.npz")


@pytest.mark.parametrize("absent", OPTIONAL)
def test_section_whose_file_is_missing_says_so_and_the_others_stay(small: Path, absent: str) -> None:
    (small / absent).unlink()
    html = page_of(small)
    assert f"({absent})" in html
    assert html.count("<h2 ") == 15
    assert f"({absent})" not in html.replace(f"({absent})", "", 1)


def test_table_without_rows_or_header_counts_as_missing(small: Path) -> None:
    pd.DataFrame([]).to_csv(small / "comparisons.csv", index=False)
    assert "(comparisons.csv)" in page_of(small)


def test_study_with_nothing_but_results_and_summary_has_a_report(small: Path) -> None:
    for name in OPTIONAL:
        (small / name).unlink()
    assert page_of(small).count("<svg ") == 3


@pytest.mark.parametrize("absent", ["summary.json", "results.csv"])
def test_folder_without_a_study_is_refused_with_the_file_named(small: Path, absent: str) -> None:
    (small / absent).unlink()
    with pytest.raises(DataError, match=absent):
        render_report(small)
    assert not (small / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", "{"),
        ("summary.json", '{"study": "x"}'),
        ("results.csv", ""),
        ("results.csv", "method,regime\na,b\n"),
        ("results.csv", "\n"),
        ("sites.csv", 'site,train\n"1'),
        ("slices.npz", "not an archive"),
    ],
)
def test_file_that_cannot_be_understood_is_named(small: Path, name: str, content: str) -> None:
    (small / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=name):
        render_report(small)


def test_slices_that_hide_a_pickle_are_refused(small: Path) -> None:
    np.savez(small / "slices.npz", t1_axial=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"slices\.npz"):
        render_report(small)


def test_methods_named_like_missing_values_and_sites_named_like_numbers_keep_their_names(small: Path) -> None:
    study = study_of(small)
    assert "null" in set(study.results["method"])
    assert study.tables[SITES.name]["site"].iloc[0] == "002"
    assert Page(page(study)).table("Visits with each modality")[1][0] == "002"
