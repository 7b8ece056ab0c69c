"""Averaging by module: a running sum of weighted changes, divided once (permmoe.federated.aggregation_rules).

Modality-aware FedAvg, the default rule, is

    θ_k ← θ_k + step( Σ_s n_{s,k} Δ_{s,k} / Σ_s n_{s,k} )

over the sites s that trained module k, with n_{s,k} its support there. A site that never saw a modality has no say in
that modality's encoder, and a module that nobody trained stays as it is, bit by bit.

The running sum is kept in fixed point (permmoe.federated.fixed_point), so the result does not depend on the order in
which replies arrive, to the last bit, and a secure sum ends with the same. A reply that could push a sum out of the
range raises FixedPointOverflowError and leaves the sum as it was.

The sum of a large model does not fit into a processor's cache: fetching it for every reply would take longer than
adding. Therefore AT_ONCE replies are added together, chunk by chunk. Memory is one model of 64-bit integers and the
replies that wait, however many sites take part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil, inf

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from permmoe.federated.aggregation_rules import MODALITY_FEDAVG, AggregationRule, ModuleTotal
from permmoe.federated.fixed_point import LARGEST, ONE, QUICK, FixedPointOverflowError, Term, add_to, reach_of
from permmoe.federated.update import ModuleUpdate

AT_ONCE = 8
"""Replies that wait to be added together, at most: as many as exchange.PULL_AT_ONCE."""


@dataclass
class ModuleSum:
    """The running sum of one module, in fixed point."""

    change: Int64[Tensor, " n"]
    """Σ weight × mean change."""
    weight: int
    """Σ weight of the sites that trained the module."""
    reach: int
    """A bound: no element of `change` is further from zero, also after the waiting replies are added."""


@dataclass
class RunningSum:
    """The sum of all replies so far; `fold` changes it in place."""

    visits: int = 0
    """Σ training visits of all sites, in fixed point."""
    sites: int = 0
    _modules: dict[str, ModuleSum] = field(default_factory=dict)
    _waiting: list[Mapping[str, Term]] = field(default_factory=list)

    @property
    def modules(self) -> Mapping[str, ModuleSum]:
        """The sums by module, after adding every reply that waits."""
        self._add_waiting()
        return self._modules

    def _add_waiting(self) -> None:
        for name, module in self._modules.items():
            add_to(module.change, [terms[name] for terms in self._waiting if name in terms])
        self._waiting.clear()


def fold(
    running: RunningSum,
    updates: Mapping[str, ModuleUpdate],
    visits: float,
    rule: AggregationRule = MODALITY_FEDAVG,
    longest: float = inf,
    damping: float = 1.0,
) -> RunningSum:
    """Add the updates of one site, which trained on `visits` visits. Returns the same object.

    The updates must not change afterwards. `longest` is a bound on the norm of every mean change, known where the reply
    was checked; it saves the search for the largest number. `damping`, at most 1, multiplies the changes and not their
    weights: FedBuff divides by the number of updates, however late they are. Raises FixedPointOverflowError, and adds
    nothing then.
    """
    terms, weights = {}, {}
    for name, update in updates.items():
        weight = rule.weight(name, update.support, visits)
        factor = damping * weight / update.support
        # Twice, since a norm that is added up in float32 may have lost a few per cent of its largest element.
        bound = 2 * longest * weight * ONE
        reach = ceil(bound) if bound < QUICK else reach_of(update.weighted_delta, factor)
        before = running._modules.get(name)
        if reach + (before.reach if before else 0) > LARGEST:
            raise FixedPointOverflowError(f"the sum of module {name}")
        terms[name], weights[name] = Term(update.weighted_delta, factor, reach), round(weight * ONE)
    for name, term in terms.items():
        if name not in running._modules:
            running._modules[name] = ModuleSum(torch.zeros(len(term.values), dtype=torch.int64), 0, 0)
        module = running._modules[name]
        module.weight += weights[name]
        module.reach += term.reach
    running._waiting.append(terms)
    running.visits += round(visits * ONE)
    running.sites += 1
    if len(running._waiting) == AT_ONCE:
        running._add_waiting()
    return running


def running_sum(changes: Mapping[str, tuple[Int64[Tensor, " n"], int]], visits: float, sites: int) -> RunningSum:
    """The running sum that a secure sum amounts to, from Σ support × change and Σ support by module."""
    modules = {name: ModuleSum(change, weight, LARGEST) for name, (change, weight) in changes.items()}
    return RunningSum(round(visits * ONE), sites, modules)


def mean_changes(
    running: RunningSum, parameters: Mapping[str, Tensor], rule: AggregationRule = MODALITY_FEDAVG
) -> Iterator[tuple[str, Float32[Tensor, " n"]]]:
    """The mean change of every module that some site trained, one at a time. `parameters` are those of the round."""
    for name, module in running.modules.items():
        total = ModuleTotal(name, module.change, module.weight, running.visits)
        yield name, rule.mean(total, parameters[name]).float()
