"""The experts: E two-layer perceptrons shared by all modalities, each computed for the tokens sent to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from permmoe.config import ModelConfig

ALIGNED = 8
"""A grouped product on a GPU wants rows of a multiple of 16 bytes, eight numbers in half precision."""


class Experts(nn.Module):
    """Stacked parameters, so that all experts are two batched products instead of a loop."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n_experts, width, hidden = config.experts, config.width, config.expert_hidden
        self.top_k = config.top_k
        self.w1 = nn.Parameter(torch.randn(n_experts, width, hidden) * width**-0.5)
        self.b1 = nn.Parameter(torch.zeros(n_experts, hidden))
        self.w2 = nn.Parameter(torch.randn(n_experts, hidden, width) * hidden**-0.5)
        self.b2 = nn.Parameter(torch.zeros(n_experts, width))

    def forward(
        self, tokens: Float[Tensor, "token dim"], gates: Float[Tensor, "token expert"]
    ) -> Float[Tensor, "token dim"]:
        """Σ_e gate_e · FFN_e(token), over the experts with a gate above zero, k at most."""
        is_half = product_precision(tokens) == torch.bfloat16
        if tokens.device.type != "cpu" and is_half and are_aligned(self.w1):
            return self.grouped(tokens, gates, torch.bfloat16)
        return self.padded(tokens, gates)

    def padded(
        self, tokens: Float[Tensor, "token dim"], gates: Float[Tensor, "token expert"]
    ) -> Float[Tensor, "token dim"]:
        """Each expert's tokens are gathered and padded with zeros to the busiest expert's number.

        So the cost grows with imbalance, up to that of every expert on every token, and the host has to wait for the
        busiest expert's number of tokens.
        """
        is_sent = gates > 0
        busiest = int(is_sent.sum(0).max())
        token, expert = is_sent.nonzero(as_tuple=True)
        place = expert * busiest + (is_sent.cumsum(0) - 1)[token, expert]
        slots = tokens.new_zeros(len(self.w1) * busiest, tokens.shape[1])
        slots = slots.index_copy(0, place, tokens.index_select(0, token)).view(len(self.w1), busiest, tokens.shape[1])
        hidden = F.gelu(torch.baddbmm(self.b1.unsqueeze(1), slots, self.w1))
        outputs = torch.baddbmm(self.b2.unsqueeze(1), hidden, self.w2).flatten(0, 1)
        weighted = (outputs.index_select(0, place) * gates[token, expert].unsqueeze(-1)).to(tokens.dtype)
        if tokens.device.type == "cpu":
            return torch.zeros_like(tokens).index_add(0, token, weighted)
        return sum_in_order(weighted, token, is_sent, self.top_k)

    def grouped(
        self, tokens: Float[Tensor, "token dim"], gates: Float[Tensor, "token expert"], precision: torch.dtype
    ) -> Float[Tensor, "token dim"]:
        """`grouped_experts` of this model alone."""
        own = (x.unsqueeze(0) for x in (tokens, gates, self.w1, self.b1, self.w2, self.b2))
        return grouped_experts(*own, k=self.top_k, precision=precision).squeeze(0)


def grouped_experts(
    tokens: Float[Tensor, "model token dim"],
    gates: Float[Tensor, "model token expert"],
    w1: Float[Tensor, "model expert dim hidden"],
    b1: Float[Tensor, "model expert hidden"],
    w2: Float[Tensor, "model expert hidden dim"],
    b2: Float[Tensor, "model expert dim"],
    *,
    k: int,
    precision: torch.dtype,
) -> Float[Tensor, "model token dim"]:
    """What each model's `Experts` make of its tokens, by one grouped product over the experts of all models.

    Tokens are sorted by expert, nothing is padded, and no shape depends on who goes where. Where each expert's tokens
    end is known to the device alone, so the host need not wait for it: on a GPU that holds for products in bf16.
    """
    n_models, n_experts, _, _ = w1.shape
    weights, experts = gates.topk(k, dim=2)
    first = n_experts * torch.arange(n_models, device=gates.device)
    experts = (experts + first[:, None, None]).flatten()
    order = experts.argsort(stable=True)
    expert = experts.index_select(0, order)
    ends = torch.searchsorted(expert, torch.arange(n_models * n_experts, device=gates.device), right=True).int()
    rows = tokens.unsqueeze(2).expand(-1, -1, k, -1).flatten(0, 2).index_select(0, order)
    w1, b1, w2, b2, rows = (x.to(precision) for x in (*(x.flatten(0, 1) for x in (w1, b1, w2, b2)), rows))
    hidden = F.gelu(F.grouped_mm(rows, w1, offs=ends) + b1.index_select(0, expert))
    outputs = F.grouped_mm(hidden, w2, offs=ends) + b2.index_select(0, expert)
    # Back in the order of the tokens: a sum over k does not depend on the order in which threads add.
    own = torch.empty_like(outputs).index_copy(0, order, outputs).view(*weights.shape, -1)
    return (own * weights.unsqueeze(-1)).sum(2).to(tokens.dtype)


def are_aligned(w1: Float[Tensor, "*model expert dim hidden"]) -> bool:
    """Whether a grouped product takes experts of these sizes."""
    return all(size % ALIGNED == 0 for size in w1.shape[-2:])


def product_precision(values: Tensor) -> torch.dtype:
    """The precision of products of these values: autocast's, where it is on."""
    device = values.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else values.dtype


def sum_in_order(
    rows: Float[Tensor, "row dim"], token: Int[Tensor, " row"], is_sent: Bool[Tensor, "token expert"], most: int
) -> Float[Tensor, "token dim"]:
    """The sum of each token's rows: one for every expert that it was sent to, `most` at most, sorted by token.

    On a GPU `index_add` adds them in whichever order threads come, so that a prediction made twice would differ in its
    last digits. Here each row has a place of its own, and the sum over places has an order.
    """
    rank = (is_sent.cumsum(1) - 1)[is_sent]
    places = rows.new_zeros(len(is_sent) * most, rows.shape[1]).index_copy(0, token * most + rank, rows)
    return places.view(len(is_sent), most, -1).sum(1)
