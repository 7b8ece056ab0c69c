"""The rules by which sites' changes of a module become one change. Each rule is one object; RULES lists them all.

A site that trained a module enters the sum of that module with a weight: Σ weight × mean change over sites. A rule says
what the weight is, and what the sum is divided by. To add a rule, write its object here and name it in RULES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # PyTorch takes a second to import, and every command reads configurations, which name these rules.
    from torch import Tensor


@dataclass(frozen=True)
class ModuleTotal:
    """What the sites' updates of one module add up to, in fixed point (permmoe.federated.fixed_point)."""

    module: str
    change: Tensor
    """Σ weight × mean change, int64."""
    weight: int
    """Σ weight of the sites that trained the module."""
    visits: int
    """Σ training visits of all sites, also of those that did not train the module."""


@dataclass(frozen=True)
class AggregationRule:
    """How sites are weighted in a module, and how their sum becomes the module's mean change."""

    name: str
    """As it stands in a study's configuration."""
    description: str
    weight: Callable[[str, float, float], float]
    """(module, the site's support there, the site's visits) -> weight of a site that trained the module."""
    mean: Callable[[ModuleTotal, Tensor], Tensor]
    """(sum over sites, the module's parameters in this round) -> the mean change in float64."""
    keeps_unchanged: bool = True
    """Whether parameters that no site changes stay as they are."""


def _support(module: str, support: float, visits: float) -> float:
    return support


def _visits(module: str, support: float, visits: float) -> float:
    return visits


def _one(module: str, support: float, visits: float) -> float:
    return 1.0


def _support_of_encoders(module: str, support: float, visits: float) -> float:
    return support if _is_encoder(module) else visits


def _over_own_weights(total: ModuleTotal, parameters: Tensor) -> Tensor:
    return total.change.double().div_(total.weight)


def _over_all_visits(total: ModuleTotal, parameters: Tensor) -> Tensor:
    return total.change.double().div_(total.visits)


def _over_own_weights_of_encoders(total: ModuleTotal, parameters: Tensor) -> Tensor:
    return total.change.double().div_(total.weight if _is_encoder(total.module) else total.visits)


def _with_zeros_for_absent_parameters(total: ModuleTotal, parameters: Tensor) -> Tensor:
    absent = (total.visits - total.weight) / total.visits
    return total.change.double() / total.visits - absent * parameters.double()


def _is_encoder(module: str) -> bool:
    return module.startswith("encoder/")


MODALITY_FEDAVG = AggregationRule(
    "modality_fedavg",
    "A site counts in a module by its own support there, and only sites that trained the module count.",
    _support,
    _over_own_weights,
)
ZERO_FILL = AggregationRule(
    "zero_fill",
    "Plain FedAvg: a site counts by its visits, and a site without the module counts with a change of zero.",
    _visits,
    _over_all_visits,
)
NAIVE_UNION = AggregationRule(
    "naive_union",
    "Plain FedAvg in which absent parameters count as zeros: the common bug, which shrinks rare modules.",
    _visits,
    _with_zeros_for_absent_parameters,
    keeps_unchanged=False,
)
UNIFORM_MEAN = AggregationRule(
    "uniform_mean",
    "Every site that trained the module counts the same (FedMEMA's masked mean).",
    _one,
    _over_own_weights,
)
SITE_WEIGHT = AggregationRule(
    "site_weight",
    "A site counts by its visits, among the sites that trained the module (FLARE: a denominator for each key).",
    _visits,
    _over_own_weights,
)
COUNTED_ENCODERS = AggregationRule(
    "counted_encoders",
    "Encoders are averaged by support among their sites, all other modules by plain FedAvg (FedAMM).",
    _support_of_encoders,
    _over_own_weights_of_encoders,
)
UNSCALED_SUPPORT = AggregationRule(
    "unscaled_support",
    "The support over all sites' visits: a rare module's step is as small as its share of them, as in one place.",
    _support,
    _over_all_visits,
)

RULES: dict[str, AggregationRule] = {
    rule.name: rule
    for rule in (
        MODALITY_FEDAVG,
        ZERO_FILL,
        NAIVE_UNION,
        UNIFORM_MEAN,
        SITE_WEIGHT,
        COUNTED_ENCODERS,
        UNSCALED_SUPPORT,
    )
}
"""Name in a configuration -> rule."""
