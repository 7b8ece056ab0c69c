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
from permmoe.ridge import CombinationRidge
from permmoe.routers import Routers, Routing

__all__ = ["Output", "PerMMoE", "Routing"]


@dataclass(frozen=True)
class Output:
    """A prediction for every visit, and how it came about."""

    prediction: Float[Tensor, " batch"]
    """Change in CDR-SB at the horizon, points."""
    routing: Routing
    unimodal: Float[Tensor, "batch modality"] | None = None
    """While training with unimodal heads: what each observed modality predicts by itself, points."""


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
        self.unimodal_heads = nn.ModuleDict(
            {name: UnimodalHead(config) for name in config.names} if config.unimodal_heads else {}
        )
        self.ridge = CombinationRidge(config) if config.ridge else None

    def forward(self, batch: Batch) -> Output:
        """Predict for each visit. Raises ValueError where `inputs` and `observed` disagree, or a visit has nothing."""
        tokens = self._tokens(batch)
        hidden = self.attention(tokens)
        normed = self.attention.expert_norm(hidden)
        routing: Routing = self.routers(normed, batch.observed)
        mixed = self.experts(normed.flatten(0, 2), routing.gates.flatten(0, 2)).view_as(hidden)
        hidden = hidden + F.dropout(mixed, self.config.dropout, self.training)
        prediction: Tensor = self.head(hidden, batch.baseline)
        if self.training:
            return Output(prediction, routing, self._unimodal(tokens))
        if self.ridge and self.config.ridge:
            # Never while training: the experts would learn what is left of visits that the ridge has seen, and on
            # visits that it has not seen more is left.
            prediction = torch.lerp(prediction, self.ridge(batch), self.config.ridge.share)
        return Output(prediction, routing)

    def _unimodal(self, tokens: Float[Tensor, "batch modality token dim"]) -> Float[Tensor, "batch modality"] | None:
        if not self.unimodal_heads:
            return None
        heads = zip(self.unimodal_heads.values(), tokens.unbind(1), strict=True)
        return torch.stack([head(own) for head, own in heads], dim=1)

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


class UnimodalHead(nn.Module):
    """A linear prediction from one modality's tokens, which makes its encoder learn what the modality says alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.tokens * config.width)
        self.out = nn.Linear(config.tokens * config.width, 1)

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, " batch"]:
        """Change in CDR-SB, points."""
        prediction: Tensor = self.out(self.norm(tokens.flatten(1)))
        return prediction.squeeze(1).float()


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
