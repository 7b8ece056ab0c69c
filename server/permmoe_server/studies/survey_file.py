"""`survey.json`: the numbers of a finished survey, with what is needed to read them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import Field

from permmoe.config import Configuration
from permmoe.federated.plan import RoundPlan
from permmoe_server.protocol.survey_told import Told
from permmoe_server.studies.numbers_file import read_numbers, write_numbers

SURVEY_FILE = "survey.json"


class SurveyNumbers(Configuration):
    """The numbers of a survey. All of them are of `min_cell_count` patients or more at each hospital."""

    plan: RoundPlan
    finished: datetime
    sites: tuple[str, ...] = Field(description="hospitals that answered")
    answers: dict[str, int] = Field(description="question -> patients who are told to be among those of it")
    hospitals: dict[str, int] = Field(description="question -> hospitals that have such; empty after a secure sum")

    @classmethod
    def of(cls, plan: RoundPlan, told: Told, finished: datetime) -> SurveyNumbers:
        """The numbers that the sites told."""
        return cls(
            plan=plan,
            finished=finished,
            sites=told.sites,
            answers=dict(sorted(told.answers.items())),
            hospitals=dict(sorted(told.hospitals.items())),
        )


def write_survey_file(folder: Path, numbers: SurveyNumbers) -> None:
    """Write the numbers into a survey's folder."""
    write_numbers(folder / SURVEY_FILE, numbers)


def read_survey_file(folder: Path) -> SurveyNumbers:
    """The numbers in a survey's folder. Raises ConfigurationError where there are none, DataError where damaged."""
    return read_numbers(folder / SURVEY_FILE, SurveyNumbers, "survey", "numbers")
