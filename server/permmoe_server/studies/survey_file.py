"""`survey.json`: the numbers of a finished survey, with what is needed to read them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import Field, ValidationError

from permmoe.config import Configuration
from permmoe.errors import ConfigurationError, DataError
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe_server.protocol.survey_told import Told

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
    write_file(folder / SURVEY_FILE, numbers.model_dump_json(indent=1), mode=PUBLIC_MODE, is_durable=True)


def read_survey_file(folder: Path) -> SurveyNumbers:
    """The numbers in a survey's folder. Raises ConfigurationError where there are none, DataError where damaged."""
    path = folder / SURVEY_FILE
    try:
        return SurveyNumbers.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ConfigurationError(
            f"the survey in {folder} has no numbers yet; permmoe-server study list shows how it stands"
        ) from None
    except ValidationError as error:
        raise DataError(f"{path} was damaged ({error.error_count()} errors); take it from a back-up") from None
