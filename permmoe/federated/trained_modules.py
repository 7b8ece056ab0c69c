"""Which modules a round trains: no other is sent back, summed or averaged in it."""

from __future__ import annotations

from collections.abc import Iterable

from permmoe.federated.modules import kind_of
from permmoe.federated.plan import RoundPlan


def trained_modules(plan: RoundPlan, number: int, modules: Iterable[str]) -> tuple[str, ...]:
    """Those of the modules, in their order: in pretraining the encoders of volumes, and all but these where a round
    that learns the outcome leaves them frozen, or means came along with them; under differential privacy the kinds that
    it trains; else all."""
    if kinds := _private_kinds(plan):
        return tuple(module for module in modules if kind_of(module) in kinds)
    encoders = _encoders(plan)
    if plan.federation.is_pretraining(number):
        return tuple(module for module in modules if module in encoders)
    sets_means = plan.federation.sets_means(number)
    if plan.model.encoder.weights is not None if sets_means else plan.train.frozen_encoders:
        return tuple(module for module in modules if module not in encoders)
    return tuple(modules)


def fixed_modules(plan: RoundPlan, modules: Iterable[str]) -> frozenset[str]:
    """Those of the modules that every participant has from the study's seed, or from the weights file that its plan
    names, and that never change: no message holds them."""
    if kinds := _private_kinds(plan):
        return frozenset(module for module in modules if kind_of(module) not in kinds)
    return _encoders(plan) if plan.model.encoder.weights and plan.train.frozen_encoders else frozenset()


def _private_kinds(plan: RoundPlan) -> tuple[str, ...]:
    return plan.federation.privacy.trains if plan.federation.privacy else ()


def _encoders(plan: RoundPlan) -> frozenset[str]:
    return frozenset(f"encoder/{modality.name}" for modality in plan.model.modalities if not modality.has_columns)
