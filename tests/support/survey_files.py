"""Surveys over the tiny federation's sites."""

from __future__ import annotations

from typing import Any

from permmoe.federated.plan import RoundPlan
from tests.support.tiny_federation import MODEL


def tiny_survey(*, severity: tuple[float, ...] = (2.0,), **settings: Any) -> RoundPlan:
    """A survey by modality, severity and outcome; `settings` are the federation's."""
    federation = {"round_deadline_seconds": 600.0, **settings}
    return RoundPlan.model_validate(
        {
            "name": "who could take part",
            "is_synthetic": True,
            "survey": {"severity": severity},
            "model": MODEL.model_dump(),
            "federation": federation,
        }
    )
