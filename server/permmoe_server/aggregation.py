"""Averaging by module: a running sum of weighted changes, divided once (design: modality-aware FedAvg).

    θ_k ← θ_k + step( Σ_s n_{s,k} Δ_{s,k} / Σ_s n_{s,k} )

over the sites s that trained module k, with n_{s,k} its support there. A site that never saw a modality has no say in
that modality's encoder, and a module that nobody trained stays as it is, bit by bit.

The running sum is kept in fixed point (permmoe.federated.fixed_point), so the result does not depend on the order in
which replies arrive, to the last bit, and a secure sum ends with the same. A reply that could push a sum out of the
range raises FixedPointOverflowError and leaves the sum as it was. Memory is one model of 64-bit integers, however many
sites take part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float32, Int64
from torch import Tensor

from permmoe.federated.fixed_point import LARGEST, ONE, FixedPointOverflowError, to_fixed_point
from permmoe.federated.update import ModuleUpdate

Rule = Literal[
    "modality_fedavg", "zero_fill", "naive_union", "uniform_mean", "site_weight", "counted_encoders", "unscaled_support"
]


@dataclass(frozen=True)
class ModuleSum:
    """The running sum of one module, in fixed point."""

    change: Int64[Tensor, " n"]
    """Σ weight × mean change."""
    weight: int
    """Σ weight of the sites that trained the module."""
    reach: int
    """No element of `change` is further from zero."""


@dataclass(frozen=True)
class RunningSum:
    """All replies folded so far."""

    modules: Mapping[str, ModuleSum] = field(default_factory=dict)
    visits: int = 0
    """Σ training visits of all sites, in fixed point."""
    sites: int = 0


def fold(
    running: RunningSum, updates: Mapping[str, ModuleUpdate], visits: float, rule: Rule = "modality_fedavg"
) -> RunningSum:
    """Add one site's updates, trained on so many visits. Raises FixedPointOverflowError and adds nothing."""
    modules = dict(running.modules)
    for name, update in updates.items():
        weight = _weight(rule, name, update, visits)
        change, reach = to_fixed_point(update.weighted_delta, weight / update.support)
        if (before := modules.get(name)) is not None:
            reach += before.reach
            if reach > LARGEST:
                raise FixedPointOverflowError(f"the sum of module {name}")
            change = change.add_(before.change)
        modules[name] = ModuleSum(change, (before.weight if before else 0) + round(weight * ONE), reach)
    return RunningSum(modules, running.visits + round(visits * ONE), running.sites + 1)


def running_sum(changes: Mapping[str, tuple[Int64[Tensor, " n"], int]], visits: float, sites: int) -> RunningSum:
    """What a secure sum gave, as if the sites' updates had been folded: Σ support × change and Σ support by module."""
    modules = {name: ModuleSum(change, weight, LARGEST) for name, (change, weight) in changes.items()}
    return RunningSum(modules, round(visits * ONE), sites)


def mean_changes(
    running: RunningSum, parameters: Mapping[str, Tensor], rule: Rule = "modality_fedavg"
) -> Iterator[tuple[str, Float32[Tensor, " n"]]]:
    """The mean change of every module that some site trained, one at a time. `parameters` are those of the round."""
    for name, module in running.modules.items():
        match rule:
            case "modality_fedavg" | "uniform_mean" | "site_weight":
                mean = module.change.double() / module.weight
            case "counted_encoders":
                mean = module.change.double() / (module.weight if name.startswith("encoder/") else running.visits)
            case "zero_fill" | "unscaled_support":
                mean = module.change.double() / running.visits
            case "naive_union":
                absent = (running.visits - module.weight) / running.visits
                mean = module.change.double() / running.visits - absent * parameters[name].double()
        yield name, mean.float()


def _weight(rule: Rule, module: str, update: ModuleUpdate, visits: float) -> float:
    """What a site that trained a module counts for in it.

    `modality_fedavg`: the module's own support. `uniform_mean`: 1 (FedMEMA's masked mean). `site_weight`: the site's
    visits, among the sites that have the module (FLARE: one scalar a site, a denominator a key). `counted_encoders`:
    support for encoders, plain FedAvg for the rest (FedAMM). `zero_fill`: the site's visits, and sites without the
    module count theirs with a change of zero (plain FedAvg, absent modules sent back untouched). `naive_union`:
    likewise, but absent parameters count as zeros, the common bug that shrinks rare modules. `unscaled_support`: the
    support over all sites' visits, so that a rare module's step is as small as its share of the visits, as it would be
    in one place.
    """
    match rule:
        case "modality_fedavg" | "unscaled_support":
            return update.support
        case "uniform_mean":
            return 1.0
        case "counted_encoders":
            return update.support if module.startswith("encoder/") else visits
        case "zero_fill" | "naive_union" | "site_weight":
            return visits
