"""A survey's page: whole, self-contained, and honest about what its numbers and curves rest on."""

from __future__ import annotations

import re
from pathlib import Path

from permmoe_server.feasibility.page import survey_page
from permmoe_server.feasibility.power_file import read_power
from tests.support.survey_numbers import survey_numbers, write_power


def test_the_page_says_which_study_could_be_run() -> None:
    page = survey_page(survey_numbers())
    assert "With t1 and flair: 252 patients or more at 4 hospitals; the outcome is known of 220 or more." in page
    assert "CDR-SB 0.5 to below 4.5" in page and "220 of 252" in page
    assert "What a study of as many patients finds" not in page


def test_the_page_asks_for_nothing_else_and_runs_nothing() -> None:
    page = survey_page(survey_numbers())
    assert not re.findall(r"<script|<link|https?://|src=|url\(|@import", page)


def test_synthetic_numbers_are_called_so_and_others_not() -> None:
    assert "SYNTHETIC" in survey_page(survey_numbers())
    assert "SYNTHETIC" not in survey_page(survey_numbers(is_synthetic=False))


def test_curves_are_said_to_rest_on_planted_patients(tmp_path: Path) -> None:
    page = survey_page(survey_numbers(is_synthetic=False), read_power(write_power(tmp_path / "power.csv")))
    assert "The curves rest on planted, synthetic patients." in page and "SYNTHETIC" in page
    assert "known to within about 44 percentage points" in page
    # 220 patients with T1 and FLAIR lie between cohorts of 100 and of 300.
    assert "63%" in page and "smaller ones are left out" in page


def test_words_of_the_coordinator_and_of_files_are_escaped(tmp_path: Path) -> None:
    file = write_power(tmp_path / "power.csv")
    file.write_text(file.read_text().replace("kernel-ridge", "<b>ridge</b>"))
    page = survey_page(survey_numbers(purpose="<script>alert(1)</script>"), read_power(file))
    assert "<script" not in page and "<b>ridge" not in page and "&lt;b&gt;ridge" in page


def test_a_survey_of_which_nothing_may_be_told_has_a_page() -> None:
    assert "Of no combination of modalities are there numbers" in survey_page(survey_numbers(told={}))


def test_a_secure_survey_says_that_nobody_learned_a_hospitals_own_numbers() -> None:
    page = survey_page(survey_numbers(secure=True))
    assert "nobody learned a hospital's own" in page and "Hospitals</th>" not in page
