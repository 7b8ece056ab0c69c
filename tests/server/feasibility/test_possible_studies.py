"""Which studies a survey's numbers speak for."""

from __future__ import annotations

from permmoe_server.feasibility.possible_studies import possible_studies, sentence
from tests.support.survey_numbers import survey_numbers


def test_a_study_has_the_patients_who_have_its_modalities_or_more() -> None:
    by_name = {study.modalities: study for study in possible_studies(survey_numbers())}
    both = by_name["t1", "flair"]
    assert (both.patients, both.known, both.hospitals) == (252, 220, 4)
    assert both.by_severity == {1: 180} and both.severity_not_told == 72
    assert by_name[()].patients == 331 and by_name["t1", "flair", "tau"].patients == 40
    assert by_name["tau",].patients == 40


def test_studies_with_most_usable_patients_come_first_and_none_without_any() -> None:
    found = possible_studies(survey_numbers())
    usable = [study.usable for study in found]
    assert usable == sorted(usable, reverse=True)
    assert possible_studies(survey_numbers(told={})) == ()


def test_a_study_is_said_in_a_sentence() -> None:
    numbers = survey_numbers()
    said = {study.modalities: sentence(study, numbers) for study in possible_studies(numbers)}
    assert said["t1", "flair"] == (
        "With t1 and flair: 252 patients or more at 4 hospitals; the outcome is known of 220 or more."
    )


def test_after_a_secure_sum_nobody_says_how_many_hospitals() -> None:
    numbers = survey_numbers(secure=True)
    study = next(s for s in possible_studies(numbers) if s.modalities == ("t1", "flair"))
    assert study.hospitals is None and "252 patients or more at 3 hospitals or more" in sentence(study, numbers)
