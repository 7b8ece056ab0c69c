"""A survey in a study's file: what may be asked, and what is refused in words."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from permmoe.federated.plan import RoundPlan
from permmoe.federated.survey_facts import Facts
from permmoe.modality import Modality


def survey(**settings: Any) -> RoundPlan:
    return RoundPlan.model_validate({"survey": {"severity": [0.5, 4.5, 9.5]}, **settings})


def test_a_study_without_a_survey_has_the_digest_that_it_had() -> None:
    assert "survey" not in RoundPlan().model_dump()
    assert RoundPlan().federation.rounds == 24


def test_a_survey_counts_once_and_evaluates_nothing() -> None:
    plan = survey(federation={"min_sites": 3})
    assert (plan.federation.rounds, plan.federation.evaluate_every, plan.federation.min_sites) == (1, 0, 3)
    assert RoundPlan.model_validate_json(plan.canonical_json()).digest() == plan.digest()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"federation": {"rounds": 3}}, "a survey counts once"),
        ({"survey": {"severity": [4.5, 0.5]}}, "bounds of severity have to rise"),
        ({"survey": {"severity": [0.5, 19]}}, "CDR-SB is never 19"),
        ({"survey": {"severities": [0.5]}}, "did you mean 'severity'"),
        (
            {"model": {"modalities": [Modality(name=f"m{i}") for i in range(7)]}},
            "a survey tells 1,000 numbers at most, and this one 1,920",
        ),
        (
            {"federation": {"privacy": {"noise_multiplier": 1.0, "patients_per_step": 8}, "centring_round": False}},
            "a survey's counts have no noise",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        survey(**settings)


def test_groups_of_severity_have_names_and_hold_their_lower_bound() -> None:
    facts = Facts.of(survey())
    assert [facts.severity_of(score) for score in (0.0, 0.5, 4.0, 4.5, 18.0)] == [0, 1, 1, 2, 3]
    assert [facts.severity_name(n, "CDR-SB") for n in range(4)] == [
        "CDR-SB below 0.5", "CDR-SB 0.5 to below 4.5", "CDR-SB 4.5 to below 9.5", "CDR-SB 9.5 or more"
    ]  # fmt: skip


def test_all_that_may_be_told_has_names_of_its_own_and_tells_what_is_wider() -> None:
    facts = Facts.of(survey())
    everything = list(facts.all_described())
    assert len({one.name for one in everything}) == len(everything) == survey().survey.n_numbers(4)
    [whole] = [one for one in everything if one.name == "any/any/any"]
    assert all(one.tells(whole) and one.tells(one) for one in everything)
    assert not whole.tells(everything[-1])
