"""The experts: E two-layer perceptrons shared by all modalities, each computed for the tokens sent to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from permmoe.config import ModelConfig

DENSE_FROM = 0.75
"""Share of all tokens at the busiest expert from which padding every expert to it saves less than gathering costs
(benchmarks/experts.py)."""


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
        """Σ_e gate_e · FFN_e(token); only experts with a gate above zero are computed, up to padding."""
        is_sent = gates > 0
        busiest = int(is_sent.sum(0).max())
        if busiest >= DENSE_FROM * len(tokens):
            return self.dense(tokens, gates)
        return self.padded(tokens, gates, busiest)

    def dense(
        self, tokens: Float[Tensor, "token dim"], gates: Float[Tensor, "token expert"]
    ) -> Float[Tensor, "token dim"]:
        """Every expert on every token."""
        hidden = self._hidden(tokens.expand(len(self.w1), *tokens.shape))
        # Gating the hidden units lets one product sum over experts, without an [expert, token, dim] buffer.
        gated = hidden.transpose(0, 1) * gates.unsqueeze(-1)
        return gated.flatten(1) @ self.w2.flatten(0, 1) + gates @ self.b2

    def padded(
        self, tokens: Float[Tensor, "token dim"], gates: Float[Tensor, "token expert"], busiest: int
    ) -> Float[Tensor, "token dim"]:
        """Each expert's tokens gathered and padded with zeros to the busiest expert's number."""
        is_sent = gates > 0
        token, expert = is_sent.nonzero(as_tuple=True)
        place = expert * busiest + (is_sent.cumsum(0) - 1)[token, expert]
        slots = tokens.new_zeros(len(self.w1) * busiest, tokens.shape[1])
        slots = slots.index_copy(0, place, tokens.index_select(0, token)).unflatten(0, (-1, busiest))
        outputs = torch.baddbmm(self.b2.unsqueeze(1), self._hidden(slots), self.w2).flatten(0, 1)
        weighted = outputs.index_select(0, place) * gates[token, expert].unsqueeze(-1)
        return torch.zeros_like(tokens).index_add(0, token, weighted.to(tokens.dtype))

    def _hidden(self, tokens: Float[Tensor, "expert token dim"]) -> Float[Tensor, "expert token hidden"]:
        return F.gelu(torch.baddbmm(self.b1.unsqueeze(1), tokens, self.w1))
