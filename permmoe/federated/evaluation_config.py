"""What a study asks that judges a finished model and trains nothing."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from permmoe.config import MOST_MEMBERS, Configuration

DIGEST = re.compile(r"(?:[0-9a-f]{64})?")


class EvaluationConfig(Configuration):
    """Which model hospitals judge, and on which of their visits. Who approves it approves this model and no other."""

    visits: Literal["test", "all"] = Field(
        "test",
        description="test: the part of the split that trains nothing, for a model that trained here; all: every visit "
        "with an outcome, for a model that never saw these hospitals",
    )
    model_sha256: str = Field(
        "", description="of all modules as they travel; permmoe-server --evaluate sets it from the model that it names"
    )
    model_name: str = Field("", max_length=200, description="what the coordinator calls the model; --evaluate sets it")
    # Absent from `model_dump` at its default, so that digests and approvals of older evaluations stay valid.
    members: int = Field(
        1, ge=1, le=MOST_MEMBERS, exclude_if=lambda members: members == 1,
        description="models whose mean is judged, where it is an ensemble; --evaluate sets it",
    )  # fmt: skip

    @field_validator("model_sha256")
    @classmethod
    def _is_a_digest(cls, digest: str) -> str:
        if not DIGEST.fullmatch(digest):
            raise ValueError("model_sha256 has 64 characters, 0-9 and a-f; leave it out, --evaluate sets it")
        return digest

    @field_validator("model_name")
    @classmethod
    def _on_one_line(cls, text: str) -> str:
        return " ".join(text.split())
