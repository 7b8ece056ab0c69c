"""Self-attention over the tokens of all modalities, observed and imputed: where modalities meet.

Without a missing bank nobody attends to what is missing: masked attention, as in MARIA (arXiv 2412.14810).

Two layers to choose from by `ModelConfig.fusion`, with the same interface.
"""

from __future__ import annotations

from math import inf, sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from permmoe.config import ModelConfig
from permmoe.layers.noise import Dropout, dropped


class FusionAttention(nn.Module):
    """One pre-norm attention layer, with embeddings that tell modalities and tokens apart.

    The residual comes from the layer's input (the public Flex-MoE code adds the attention's output to itself).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.heads, self.is_switched_on = config.heads, config.attention
        self.modality_embedding = nn.Parameter(0.02 * torch.randn(len(config.modalities), 1, width))
        self.position_embedding = nn.Parameter(0.02 * torch.randn(config.tokens, width))
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.dropout = Dropout(config.dropout)
        self.expert_norm = nn.LayerNorm(width)
        """Applied by the model to what routers and experts see; it belongs to the trunk."""

    def forward(
        self, tokens: Float[Tensor, "batch modality token dim"], present: Bool[Tensor, "batch modality"] | None = None
    ) -> Float[Tensor, "batch modality token dim"]:
        """Every token attends to every token of the same visit, of the modalities that are present; None: of all."""
        tokens = tokens + (self.modality_embedding + self.position_embedding)
        if not self.is_switched_on:
            return tokens
        flat = tokens.flatten(1, 2)
        qkv: Tensor = self.to_qkv(self.norm(flat))
        q, k, v = qkv.view(*flat.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mask = None if present is None else _of_keys(present, tokens)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        change: Tensor = self.dropout(self.project(mixed))
        return tokens + change.view_as(tokens)


class FlexMoEAttention(nn.Module):
    """The attention layer of Flex-MoE's public code, whose residual is the attention's own output.

    A token's input reaches the experts through the values alone. Dropout is on the attention's weights, behind the
    projection, and on the sum.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.heads, self.is_switched_on, self.rate = config.heads, config.attention, config.dropout
        self.position_embedding = nn.Parameter(torch.zeros(len(config.modalities), config.tokens, width))
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width)
        self.expert_norm = nn.LayerNorm(width)
        """Applied by the model to what routers and experts see; it belongs to the trunk."""

    def forward(
        self, tokens: Float[Tensor, "batch modality token dim"], present: Bool[Tensor, "batch modality"] | None = None
    ) -> Float[Tensor, "batch modality token dim"]:
        """Every token attends to every token of the same visit, of the modalities that are present; None: of all."""
        tokens = tokens + self.position_embedding
        if not self.is_switched_on:
            return tokens
        flat: Tensor = self.norm(tokens.flatten(1, 2))
        q, k, v = self.to_qkv(flat).view(*flat.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / sqrt(q.shape[-1])
        if present is not None:
            scores = scores.masked_fill(~_of_keys(present, tokens), -inf)
        weights = scores.softmax(-1)
        mixed = (self._dropped(weights) @ v).transpose(1, 2).flatten(2)
        output = self._dropped(self.project(mixed)).view_as(tokens)
        return output + self._dropped(output)

    def _dropped(self, values: Tensor) -> Tensor:
        return dropped(values, self.rate, self.training)


def _of_keys(
    present: Bool[Tensor, "batch modality"], tokens: Float[Tensor, "batch modality token dim"]
) -> Bool[Tensor, "batch 1 1 key"]:
    """The mask of an attention's scores: of each modality's tokens as keys, for all heads and queries."""
    return present[:, :, None].expand(*tokens.shape[:3]).flatten(1)[:, None, None, :]


FUSIONS: dict[str, type[FusionAttention] | type[FlexMoEAttention]] = {
    "pre_norm": FusionAttention,
    "flex_moe": FlexMoEAttention,
}
"""By the name that `ModelConfig.fusion` gives."""
