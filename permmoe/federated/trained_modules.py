"""Which modules a round trains: no other is sent back, summed or averaged in it."""

from __future__ import annotations

from collections.abc import Iterable

from permmoe.federated.plan import RoundPlan


def trained_modules(plan: RoundPlan, number: int, modules: Iterable[str]) -> tuple[str, ...]:
    """Those of the modules, in their order: in pretraining the encoders of volumes, and all but these where a round
    that learns the outcome leaves them frozen; else all."""
    encoders = {f"encoder/{modality.name}" for modality in plan.model.modalities if not modality.has_columns}
    if plan.federation.is_pretraining(number):
        return tuple(module for module in modules if module in encoders)
    if plan.train.frozen_encoders and not plan.federation.sets_means(number):
        return tuple(module for module in modules if module not in encoders)
    return tuple(modules)
