"""What a site returns for a module: its change, weighted by the data behind it. Updates add up."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float32
from torch import Tensor


@dataclass(frozen=True)
class ModuleUpdate:
    """One site's update of one module, or a sum of several sites': Σ weighted_delta / Σ support is their mean change.

    Addition rounds to float32; the server adds in fixed point instead (permmoe_server.protocol.aggregation).
    """

    weighted_delta: Float32[Tensor, " n"]
    """support × (after − before), the module's parameters laid end to end."""
    support: float
    """How much of the data trained the module, visits (permmoe.federated.modules.module_support)."""
    sites: int = 1
    """How many sites are in the sum."""

    def __add__(self, other: ModuleUpdate) -> ModuleUpdate:
        return ModuleUpdate(
            self.weighted_delta + other.weighted_delta, self.support + other.support, self.sites + other.sites
        )

    @classmethod
    def of(cls, before: Float32[Tensor, " n"], after: Float32[Tensor, " n"], support: float) -> ModuleUpdate:
        """The update of one site that trained a module."""
        return cls((after - before) * support, support, 1)
