"""Studies of the tiny federation that count their errors with noise."""

from __future__ import annotations

from typing import Any

from permmoe.federated.plan import RoundPlan
from tests.support.moments_study import moments_plan

EASY = 2000.0
"""An ε at which there is hardly any noise."""


def noised_plan(
    *, is_shared: bool = False, share: float = 0.3, largest_error: float = 4.0, **settings: Any
) -> RoundPlan:
    """One round of moments with noise, evaluated; `settings` as of `moments_plan`."""
    values = moments_plan(is_shared=is_shared, **settings).model_dump()
    values["federation"] |= {"evaluate_every": 1, "calibrate": True}
    values["federation"]["privacy"]["evaluation"] = {"share": share, "largest_error": largest_error}
    return RoundPlan.model_validate(values)
