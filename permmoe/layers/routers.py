"""Noisy top-k routers: one for each modality in PerM-MoE, one for all in Flex-MoE; the two differ in nothing else.

Their logits are linear in a token or, as in FuseMoE (Han et al. 2024, arXiv 2402.03226), minus its distance from a
place that each expert has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from permmoe.config import ModelConfig
from permmoe.layers.noise import normal_like

NOISE_FLOOR = 1e-2
"""Least standard deviation of the noise on a logit, as in Shazeer's code."""
LEAST_SQUARED_DISTANCE = 1e-6
"""Of a token from an expert's place: below it the difference of two squares is rounding, and the root has no slope."""


@dataclass(frozen=True)
class Routing:
    """The experts that every token was sent to."""

    logits: Float[Tensor, "batch modality token expert"]
    """Without noise."""
    noisy: Float[Tensor, "batch modality token expert"]
    """Those that the gates were made of: with the noise that was drawn, or the same where none was."""
    gates: Float[Tensor, "batch modality token expert"]
    """Weights of the experts, summing to 1 over a token's k experts; 0 for all others."""
    observed: Bool[Tensor, "batch modality"]
    """False where the modality's tokens came from the missing bank."""
    load: Float[Tensor, "batch modality token expert"]
    """1 for the experts that a token was sent to; with noise the chance of it, which has a gradient."""
    n_routers: int
    """1, or one for each modality."""
    present: Bool[Tensor, "batch modality"] | None = None
    """Whose tokens were routed; those of others have no gate and no load. None: all."""


class Routers(nn.Module):
    """W_m and its noise weights, stacked: [R, d, E] with R = |M| for routers per modality and 1 for a shared one.

    Noise and its weights: Shazeer et al. 2017 (arXiv 1701.06538), equations 3 to 5.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n_routers = len(config.modalities) if config.routers == "per_modality" else 1
        shape = (n_routers, config.width, config.experts)
        self.top_k, self.router_noise = config.top_k, config.router_noise
        self.logits = GATES[config.gate]
        self.weight = nn.Parameter(torch.randn(shape) * config.width**-0.5)
        self.noise_weight = nn.Parameter(torch.zeros(shape))

    def forward(
        self,
        tokens: Float[Tensor, "batch modality token dim"],
        observed: Bool[Tensor, "batch modality"],
        present: Bool[Tensor, "batch modality"] | None = None,
    ) -> Routing:
        """Softmax over the k largest (while training: noisy) logits, in fp32 whatever autocast says.

        In half precision near-ties between experts would be decided by rounding.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            by_modality = tokens.float().transpose(0, 1)
            rows = by_modality.reshape(len(self.weight), -1, tokens.shape[-1])
            logits = noisy = self.logits(rows, self.weight)
            if self.training and self.router_noise:
                scale = F.softplus(torch.bmm(rows, self.noise_weight)) + NOISE_FLOOR
                noisy = logits + scale * normal_like(logits)
                gates, largest = top_k_gates(noisy, self.top_k)
                load = _smooth_load(logits, noisy, scale, largest, self.top_k)
            else:
                gates, _ = top_k_gates(logits, self.top_k)
                load = (gates > 0).float()
        shape = (*by_modality.shape[:-1], logits.shape[-1])
        logits, noisy, gates, load = (x.view(shape).transpose(0, 1) for x in (logits, noisy, gates, load))
        if present is not None:
            gates, load = (x * present[:, :, None, None] for x in (gates, load))
        return Routing(logits, noisy, gates, observed, load, len(self.weight), present)


def laplace_logits(
    tokens: Float[Tensor, "router row dim"], places: Float[Tensor, "router dim expert"]
) -> Float[Tensor, "router row expert"]:
    """−‖h − w_e‖₂: FuseMoE's Laplace gate, whose softmax is that of exp(−‖h − w_e‖).

    By one product, as the squared distance is |h|² − 2 h·w + |w|². At an expert's very place the gradient is zero.
    """
    squared = tokens.square().sum(2, keepdim=True) + places.square().sum(1, keepdim=True)
    squared = squared - 2 * torch.bmm(tokens, places)
    return -squared.clamp(min=LEAST_SQUARED_DISTANCE).sqrt()


GATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"linear": torch.bmm, "laplace": laplace_logits}
"""From tokens and W_m to logits, by the name that `ModelConfig.gate` gives."""


def top_k_gates(
    logits: Float[Tensor, "router row expert"], k: int
) -> tuple[Float[Tensor, "router row expert"], Float[Tensor, "router row largest"]]:
    """Softmax over each row's k largest logits, zeros elsewhere; and its k + 1 (at most E) largest logits, sorted."""
    largest, experts = logits.topk(min(k + 1, logits.shape[-1]), dim=-1)
    gates = largest[..., :k].softmax(-1)
    return torch.zeros_like(logits).scatter(-1, experts[..., :k], gates), largest


def _smooth_load(
    logits: Float[Tensor, "router row expert"],
    noisy: Float[Tensor, "router row expert"],
    scale: Float[Tensor, "router row expert"],
    largest: Float[Tensor, "router row largest"],
    k: int,
) -> Float[Tensor, "router row expert"]:
    """The chance that each expert gets the token if only its own noise were drawn again (Shazeer 2017, appendix A).

    An expert is chosen when it exceeds the k-th largest noisy logit among the others. With k = E all are.
    """
    if largest.shape[-1] == k:
        return torch.ones_like(logits)
    is_chosen = noisy > largest[..., k:]
    threshold = torch.where(is_chosen, largest[..., k:], largest[..., k - 1 : k])
    return 0.5 + 0.5 * torch.erf((logits - threshold) / (scale * sqrt(2)))
