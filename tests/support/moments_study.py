"""A study of the tiny federation whose ridge is set once, from moments with noise."""

from __future__ import annotations

from typing import Any

from permmoe.config import RidgeConfig
from permmoe.federated.plan import RoundPlan
from tests.support.tiny_federation import MODEL, tiny_plan

TARGET = 8.0
"""ε of the study where nothing else is said."""
VISITS = 211
"""Of a hospital: among a few patients there is nothing to be seen behind the noise."""


def moments_plan(*, is_shared: bool = False, name: str = "study", row_norm: float = 5.0, **privacy: Any) -> RoundPlan:
    """One round; `privacy` names its noise. Sums with shared noise are over four sites or more."""
    shared = {"secure": True, "min_sites": 4, "secure_threshold": 0.5} if is_shared else {}
    plan = plan_without_noise(max_failed_rounds=1, **shared)
    moments = {"is_shared": is_shared, "colluding": 1, "row_norm": row_norm}
    values = plan.model_dump(exclude={"federation"}) | {"name": name}
    private = {"privacy": {**(privacy or {"target_epsilon": TARGET}), "moments": moments}}
    return RoundPlan.model_validate({**values, "federation": plan.federation.model_dump() | private})


def plan_without_noise(**federation: Any) -> RoundPlan:
    """The same, and its sums leave as they are."""
    plan = tiny_plan(rounds=1, centring_round=True, evaluate_every=0, **federation)
    model = MODEL.model_copy(update={"ridge": RidgeConfig(share=1.0, directions="declared")})
    return plan.model_copy(update={"model": model})
