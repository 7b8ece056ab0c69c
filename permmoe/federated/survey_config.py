"""What a survey asks: a study without a model, that counts patients before anybody trains."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field, field_validator

from permmoe.config import Configuration

MOST_NUMBERS = 1000
"""A secure sum has a block for everything that may be told of patients, and a message of its bits holds 1,024."""


class SurveyConfig(Configuration):
    """By what a survey counts patients, besides the modalities that the study file names."""

    severity: tuple[float, ...] = Field(
        (),
        max_length=4,
        description="bounds of groups of the score at the visit, as [0.5, 4.5, 9.5] of CDR-SB: below 0.5, from 0.5 to "
        "below 4.5 …; empty: not by severity",
    )
    outcome: bool = Field(True, description="by whether the outcome at the horizon is known; its value is never told")

    def n_numbers(self, n_modalities: int) -> int:
        """How many things may be told of patients: by any modalities, and any or no severity and outcome."""
        n_severities = len(self.severity) + 1 if self.severity else 0
        return int(2**n_modalities * (n_severities + 1) * (3 if self.outcome else 1))

    @field_validator("severity")
    @classmethod
    def _rises(cls, bounds: tuple[float, ...]) -> tuple[float, ...]:
        if any(low >= high for low, high in pairwise(bounds)):
            raise ValueError(f"bounds of severity have to rise, and these do not: {', '.join(map(str, bounds))}")
        return bounds
