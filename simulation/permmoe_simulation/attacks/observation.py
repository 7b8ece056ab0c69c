"""What the coordinator holds after a round: the model that it sent out, and what came back of each module.

Without the secure sum that is one site's update; with it, the sum over all sites and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from jaxtyping import Float32
from torch import Tensor

from permmoe.config import ModelConfig
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.update import ModuleUpdate
from permmoe.model import PerMMoE

Updates = Mapping[str, ModuleUpdate]
"""By module; one that was not trained, or not released, is absent."""


@dataclass(frozen=True)
class Observation:
    """All that an attack is given besides what is public: the configuration, and how sites train."""

    config: ModelConfig
    before: Mapping[str, Tensor]
    """The state dict that the sites started from."""
    updates: Updates

    def model_before(self) -> PerMMoE:
        """The model that the sites started from."""
        return _model(self.config, self.before)

    def model_after(self) -> PerMMoE:
        """The same, moved by what came back: a site's trained model or, of a sum, the mean over the sites' visits."""
        layout = ModuleLayout.of(self.model_before())
        modules = layout.flatten_all(self.before)
        changed = {name: modules[name] + change for name, change in self.changes().items()}
        return _model(self.config, layout.unflatten(modules | changed))

    def changes(self) -> dict[str, Float32[Tensor, " n"]]:
        """Mean change of every module that came back."""
        return {name: u.weighted_delta / u.support for name, u in self.updates.items() if u.support > 0}


def secure_sum(sites: Sequence[Updates], min_holders: int) -> dict[str, ModuleUpdate]:
    """What the secure sum tells: the exact sum of each module that at least `min_holders` sites trained."""
    modules = dict.fromkeys(name for site in sites for name in site)
    sums = {name: reduce(add, (site[name] for site in sites if name in site)) for name in modules}
    return {name: total for name, total in sums.items() if total.sites >= min_holders}


def _model(config: ModelConfig, state: Mapping[str, Tensor]) -> PerMMoE:
    model = PerMMoE(config)
    model.load_state_dict(dict(state))
    return model.eval()
