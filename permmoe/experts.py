"""The experts: E two-layer perceptrons shared by all modalities, each computed for the tokens sent to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from permmoe.config import ModelConfig


class Experts(nn.Module):
    """Stacked parameters, so that all experts are two batched products instead of a loop."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n_experts, width, hidden = config.experts, config.width, config.expert_hidden
        self.w1 = nn.Parameter(torch.randn(n_experts, width, hidden) * width**-0.5)
        self.b1 = nn.Parameter(torch.zeros(n_experts, hidden))
        self.w2 = nn.Parameter(torch.randn(n_experts, hidden, width) * hidden**-0.5)
        self.b2 = nn.Parameter(torch.zeros(n_experts, width))

    def forward(
        self, tokens: Float[Tensor, "token dim"], gates: Float[Tensor, "token expert"]
    ) -> Float[Tensor, "token dim"]:
        """Σ_e gate_e · FFN_e(token), over the experts with a gate above zero.

        Each expert's tokens are gathered and padded with zeros to the busiest expert's number, so its cost grows with
        imbalance, up to that of every expert on every token.
        """
        is_sent = gates > 0
        busiest = int(is_sent.sum(0).max())
        token, expert = is_sent.nonzero(as_tuple=True)
        place = expert * busiest + (is_sent.cumsum(0) - 1)[token, expert]
        slots = tokens.new_zeros(len(self.w1) * busiest, tokens.shape[1])
        slots = slots.index_copy(0, place, tokens.index_select(0, token)).view(len(self.w1), busiest, tokens.shape[1])
        hidden = F.gelu(torch.baddbmm(self.b1.unsqueeze(1), slots, self.w1))
        outputs = torch.baddbmm(self.b2.unsqueeze(1), hidden, self.w2).flatten(0, 1)
        weighted = outputs.index_select(0, place) * gates[token, expert].unsqueeze(-1)
        return torch.zeros_like(tokens).index_add(0, token, weighted.to(tokens.dtype))
