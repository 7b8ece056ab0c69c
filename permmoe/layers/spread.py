"""How far off a prediction may be: a head that learns the spread of the residuals and leaves the prediction alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from permmoe.config import ModelConfig

HIDDEN = 16
LEAST, MOST = 0.05, 20.0
"""A spread stays within these multiples of the unit, so that no visit's interval vanishes."""


class SpreadHead(nn.Module):
    """The spread of each visit's residual, from what the prediction head sees, its prediction, and what was observed.

    Nothing flows back from it: its inputs are detached. It starts at one unit for everybody.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.unit, n = config.unit_points, len(config.modalities)
        self.centre_points, self.scale_points = config.baseline_centre_points, config.baseline_scale_points
        self.hidden = nn.Linear(n * config.width + n + 2, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        tokens: Float[Tensor, "batch modality token dim"],
        baseline: Float[Tensor, " batch"],
        observed: Bool[Tensor, "batch modality"],
        prediction: Float[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:
        """Points, above zero."""
        mean = tokens.detach().float().mean(2)
        numbers = torch.stack(
            [(baseline - self.centre_points) / self.scale_points, prediction.detach() / self.unit], dim=1
        )
        seen = observed.to(mean.device, non_blocking=True).float()
        features = torch.cat([F.layer_norm(mean, mean.shape[-1:]).flatten(1), seen, numbers], dim=1)
        logarithm: Tensor = self.out(F.gelu(self.hidden(features)))
        return self.unit * logarithm.squeeze(1).float().exp().clamp(LEAST, MOST)
