"""Which modules a round trains: no other is sent back, summed or averaged in it."""

from __future__ import annotations

from collections.abc import Iterable

from permmoe.federated.plan import RoundPlan


def trained_modules(plan: RoundPlan, number: int, modules: Iterable[str]) -> tuple[str, ...]:
    """Those of the modules, in their order: in pretraining the encoders of volumes, and all but these where a round
    that learns the outcome leaves them frozen, or means came along with them; else all."""
    encoders = _encoders(plan)
    if plan.federation.is_pretraining(number):
        return tuple(module for module in modules if module in encoders)
    sets_means = plan.federation.sets_means(number)
    if plan.model.encoder.weights is not None if sets_means else plan.train.frozen_encoders:
        return tuple(module for module in modules if module not in encoders)
    return tuple(modules)


def brought_modules(plan: RoundPlan) -> frozenset[str]:
    """The modules that every participant has from the weights file that the plan names, and that never change: no
    message holds them."""
    return _encoders(plan) if plan.model.encoder.weights and plan.train.frozen_encoders else frozenset()


def _encoders(plan: RoundPlan) -> frozenset[str]:
    return frozenset(f"encoder/{modality.name}" for modality in plan.model.modalities if not modality.has_columns)
