"""The page that sets synthetic cohorts beside ADNI: its figures are the loader's, and it says where each is from."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from permmoe.data.adni import select_visits
from permmoe.data.cohort import CohortConfig
from permmoe.data.cohort.tables import adnimerge_table
from permmoe.data.target_rule import TargetRule
from permmoe.modality import Modality
from permmoe_simulation.cohort_figures import CAUSES, Cohort, drawn, figures, unique_shares
from permmoe_simulation.cohort_page import NOTHING, cohort_page
from permmoe_simulation.published_cohort import published


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return drawn(CohortConfig(subjects=90, seed=10))


def test_the_change_is_the_outcome_that_the_loader_reads(cohort: Cohort, tmp_path: Path) -> None:
    adnimerge_table(cohort.subjects, CohortConfig(seed=10)).to_csv(tmp_path / "ADNIMERGE.csv", index=False)
    person = Modality(name="person", kind="tabular", columns=("PTEDUCAT",))
    visits = select_visits(tmp_path, None, TargetRule(), (person,), today=date(2099, 1, 1)).visits
    read = {visit.subject_id: visit.delta_cdrsb for visit in visits}
    for subject, change in zip(cohort.subjects, cohort.change, strict=True):
        expected = read[subject.ptid]
        assert (expected is None and np.isnan(change)) or change == expected


def test_a_change_that_one_cause_alone_makes_is_that_cause_s(cohort: Cohort) -> None:
    lesions = np.array([2 * subject.latents.vascular + 1 for subject in cohort.subjects])
    shares = unique_shares(replace(cohort, change=lesions))
    assert shares["vascular"] > 0.7
    assert all(abs(shares[name]) < 1e-9 for name in CAUSES if name != "vascular")


def test_every_published_figure_stands_beside_one_of_the_cohort(cohort: Cohort) -> None:
    assert set(published()) <= set(figures(cohort))
    assert all(row.source and row.figure for rows in published().values() for row in rows)


def test_the_page_says_that_it_is_synthetic_and_where_no_figure_was_found(cohort: Cohort) -> None:
    own = figures(cohort)
    page = cohort_page({"one": own, "other": own}, published(), "python make_it.py")
    assert "SYNTHETIC" in page and "`python make_it.py`" in page
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {7}
    unknown = [name for name in own if name not in published()]
    assert sum(NOTHING in line for line in table) == len(unknown) > 0
    assert own["FAQ"] == "none"


def test_the_page_in_the_documents_has_every_figure_of_today(cohort: Cohort) -> None:
    page = Path("docs/cohort.md").read_text()
    assert all(f"| {name} |" in page for name in figures(cohort))
