"""What a federation adds to the training at one site, against the drift of its weights away from the other sites'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Correction:
    """A term of the loss and a change after each step; neither does anything by default."""

    proximal_weight: float = 0.0
    """μ of FedProx (Li et al. 2020, arXiv 1812.06127)."""
    anchor: tuple[Tensor, ...] = ()
    """θ_round: the parameters at the start of the round, in the model's order; empty for μ = 0."""
    nudges: Mapping[str, Tensor] = field(default_factory=dict)
    """By parameter name, what is added to the parameters after each step."""

    @classmethod
    def at(
        cls,
        model: nn.Module,
        *,
        proximal_weight: float = 0.0,
        drift: Mapping[str, Tensor] | None = None,
        n_steps: int = 1,
    ) -> Correction:
        """The correction of a round that starts with the model's weights as they are now.

        `drift`, by parameter name, is added to the parameters in `n_steps` equal pieces (SCAFFOLD's correction,
        whatever the optimiser; Karimireddy et al. 2020, arXiv 1910.06378).
        """
        anchor = tuple(p.detach().clone() for p in model.parameters()) if proximal_weight else ()
        steered = [(name, p.device) for name, p in model.named_parameters() if name in (drift or {})]
        nudges = {name: drift[name].to(device) / n_steps for name, device in steered} if drift else {}
        return cls(proximal_weight, anchor, nudges)

    def add_to_loss(self, loss: Float[Tensor, ""], model: nn.Module, share: float) -> Float[Tensor, ""]:
        """The loss plus `share` of ½μ‖θ − θ_round‖²; the shares of a step's micro-batches sum to one."""
        if self.anchor:
            for parameter, start in zip(model.parameters(), self.anchor, strict=True):
                loss = loss + share * self.proximal_weight / 2 * (parameter - start).square().sum()
        return loss

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """Add one step's piece of the drift to the parameters."""
        if self.nudges:
            for name, parameter in model.named_parameters():
                if name in self.nudges:
                    parameter.add_(self.nudges[name])


NO_CORRECTION = Correction()
