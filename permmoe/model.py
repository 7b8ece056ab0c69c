"""PerM-MoE, the forward pass from top to bottom (arXiv 2509.12234); with one shared router, Flex-MoE (2410.08245)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from permmoe.attention import FusionAttention
from permmoe.config import ModelConfig
from permmoe.data.batch import Batch
from permmoe.encoders import encoder
from permmoe.experts import Experts
from permmoe.missing_bank import MissingBank
from permmoe.routers import Routers, Routing

__all__ = ["Output", "PerMMoE", "Routing"]


@dataclass(frozen=True)
class Output:
    """A prediction for every visit, and how it came about."""

    prediction: Float[Tensor, " batch"]
    """Change in CDR-SB at the horizon, points."""
    routing: Routing


class PerMMoE(nn.Module):
    """Progression from whichever modalities a visit has: encode, impute, attend, route, predict.

    Nothing is remembered between calls, and there are no running statistics: parameters are the whole state.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict({modality.name: encoder(modality, config) for modality in config.modalities})
        self.missing_bank = MissingBank(config)
        self.attention = FusionAttention(config)
        self.routers = Routers(config)
        self.experts = Experts(config)
        self.head = Head(config)

    def forward(self, batch: Batch) -> Output:
        """Predict for each visit. Raises ValueError where `inputs` and `observed` disagree, or a visit has nothing."""
        hidden = self.attention(self._tokens(batch))
        normed = self.attention.expert_norm(hidden)
        routing: Routing = self.routers(normed, batch.observed)
        mixed = self.experts(normed.flatten(0, 2), routing.gates.flatten(0, 2)).view_as(hidden)
        hidden = hidden + F.dropout(mixed, self.config.dropout, self.training)
        return Output(self.head(hidden, batch.baseline), routing)

    def _tokens(self, batch: Batch) -> Float[Tensor, "batch modality token dim"]:
        """Encodings where a modality was observed, the bank's embeddings elsewhere."""
        observed = batch.observed
        if not bool(observed.any(1).all()):
            raise ValueError("a visit of this batch has no observed modality")
        pieces = []
        for name, n_observed in zip(self.config.names, observed.sum(0).tolist(), strict=True):
            n_rows = len(batch.inputs[name]) if name in batch.inputs else 0
            if n_rows != n_observed:
                raise ValueError(f"{n_observed} visits of this batch have {name}, but its input has {n_rows} rows")
            if n_rows:
                pieces.append(self.encoders[name](batch.inputs[name]).float())
        pieces.append(self.missing_bank(observed))
        modality, visit = observed.t().nonzero(as_tuple=True)
        places = torch.cat([visit * observed.shape[1] + modality, (~observed).flatten().nonzero().flatten()])
        rows = torch.cat(pieces)
        return torch.empty_like(rows).index_copy(0, places, rows).view(*observed.shape, *rows.shape[1:])


class Head(nn.Module):
    """Mean of each modality's tokens, concatenated in the order of M, and baseline CDR-SB: perceptron to points."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.centre_points, self.scale_points = config.baseline_centre_points, config.baseline_scale_points
        self.norm = nn.LayerNorm(config.width)
        self.hidden = nn.Linear(len(config.modalities) * config.width + 1, config.head_hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.head_hidden, 1)

    def forward(
        self, tokens: Float[Tensor, "batch modality token dim"], baseline: Float[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Change in CDR-SB, points, from tokens and baseline CDR-SB in points."""
        scaled = (baseline - self.centre_points) / self.scale_points
        summary = torch.cat([self.norm(tokens.mean(2)).flatten(1), scaled.unsqueeze(1)], dim=1)
        prediction: Tensor = self.out(self.dropout(F.gelu(self.hidden(summary))))
        return prediction.squeeze(1).float()
