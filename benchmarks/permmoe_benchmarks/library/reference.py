"""What a user would have otherwise: the published functions in plain fp32 PyTorch, one module after another.

Flex-MoE's six-layer CNN, missing embeddings, attention, and for one modality after the other a noisy top-k router and a
loop over experts (arXiv 2410.08245 and its code; PerM-MoE, 2509.12234, has one router a modality). As the published
training loop does, it encodes the volumes that were observed and no others. Nothing is slowed down on purpose: experts
without a token are skipped, and each has its own parameters. Where permmoe departs from the published code (the
residual around attention, linear tokens in place of patches) the reference follows permmoe, so that both compute the
same; tests/benchmarks/library/test_reference.py shows it, gradients included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from permmoe.config import ModelConfig
from permmoe.data.batch import Batch
from permmoe.layers.routers import NOISE_FLOOR, Routing
from permmoe.modality import bank_pairs
from permmoe.model import Output, PerMMoE


class SixLayerCNN(nn.Module):
    """Flex-MoE's `Custom3DCNN`, with as many inputs of its last layer as the grid leaves."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        x, y, z = config.grid.shape
        self.tokens, self.width = config.tokens, config.width
        self.conv1, self.conv2 = nn.Conv3d(1, 32, 3, padding=1), nn.Conv3d(32, 32, 3, padding=1)
        self.conv3, self.conv4 = nn.Conv3d(32, 64, 3, padding=1), nn.Conv3d(64, 64, 3, padding=1)
        self.conv5, self.conv6 = nn.Conv3d(64, 128, 3, padding=1), nn.Conv3d(128, 128, 3, padding=1)
        self.dropout1, self.dropout2 = nn.Dropout3d(config.encoder.dropout), nn.Dropout3d(config.encoder.dropout)
        self.dropout3 = nn.Dropout(config.encoder.dropout)
        # Pooling by 2, 3 and 4, each rounded down, is pooling by 24, rounded down.
        self.fc = nn.Linear(128 * (x // 24) * (y // 24) * (z // 24), config.tokens * config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = self.dropout1(F.max_pool3d(x, 2))
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = self.dropout2(F.max_pool3d(x, 3))
        x = F.relu(self.conv5(x))
        x = F.relu(self.conv6(x))
        x = self.dropout3(F.max_pool3d(x, 4).flatten(1))
        tokens: Tensor = self.fc(x)
        return tokens.view(-1, self.tokens, self.width)


class Router(nn.Module):
    """Noisy top-k gating (Shazeer et al. 2017), for the tokens of one modality."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.k, self.router_noise = config.top_k, config.router_noise
        self.weight = nn.Parameter(torch.zeros(config.width, config.experts))
        self.noise_weight = nn.Parameter(torch.zeros(config.width, config.experts))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits without and with noise, gates and load, each [token, expert]."""
        clean = tokens @ self.weight
        logits = clean
        is_noisy = self.training and self.router_noise
        if is_noisy:
            scale = F.softplus(tokens @ self.noise_weight) + NOISE_FLOOR
            logits = clean + torch.randn_like(clean) * scale
        n_experts = clean.shape[1]
        top, chosen = logits.topk(min(self.k + 1, n_experts), dim=1)
        gates = torch.zeros_like(logits).scatter(1, chosen[:, : self.k], F.softmax(top[:, : self.k], dim=1))
        if not is_noisy:
            return clean, clean, gates, (gates > 0).float()
        if self.k == n_experts:
            return clean, logits, gates, torch.ones_like(clean)
        # `_prob_in_top_k`: the chance to stay in, or to come in, with noise drawn anew.
        threshold_if_in, threshold_if_out = top[:, self.k, None], top[:, self.k - 1, None]
        normal = torch.distributions.Normal(0.0, 1.0)
        chance_if_in = normal.cdf((clean - threshold_if_in) / scale)  # type: ignore[no-untyped-call]
        chance_if_out = normal.cdf((clean - threshold_if_out) / scale)  # type: ignore[no-untyped-call]
        return clean, logits, gates, torch.where(logits > threshold_if_in, chance_if_in, chance_if_out)


class LoopedExperts(nn.Module):
    """Σ_e gate_e · FFN_e(token), one expert after the other, each on the tokens sent to it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, h = config.width, config.expert_hidden
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(d, h), nn.GELU(), nn.Linear(h, d)) for _ in range(config.experts)
        )

    def forward(self, tokens: Tensor, gates: Tensor) -> Tensor:
        output = torch.zeros_like(tokens)
        for e, expert in enumerate(self.experts):
            sent = gates[:, e].nonzero().flatten()
            if len(sent):
                output = output.index_add(0, sent, gates[sent, e, None] * expert(tokens[sent]))
        return output


class Attention(nn.Module):
    """Multi-head self-attention, written out as in the published code."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.to_qkv = nn.Linear(config.width, 3 * config.width)
        self.project = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        batch, n, width = x.shape
        q, k, v = self.to_qkv(x).reshape(batch, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) / sqrt(width // self.heads)
        mixed = scores.softmax(dim=-1) @ v
        projected: Tensor = self.project(mixed.transpose(1, 2).reshape(batch, n, width))
        return projected


class ReferencePerMMoE(nn.Module):
    """Encode, fill in, attend, route and mix one modality after the other, predict."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        n_modalities, width = len(config.modalities), config.width
        self.encoders = nn.ModuleDict({name: SixLayerCNN(config) for name in config.names})
        self.missing = nn.Parameter(torch.zeros(1 << n_modalities, n_modalities, config.tokens, width))
        self.modality_embedding = nn.Parameter(torch.zeros(n_modalities, 1, width))
        self.position_embedding = nn.Parameter(torch.zeros(config.tokens, width))
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), Attention(config), nn.LayerNorm(width)
        self.dropout1, self.dropout2 = nn.Dropout(config.dropout), nn.Dropout(config.dropout)
        self.routers = nn.ModuleList(Router(config) for _ in config.names)
        self.experts = LoopedExperts(config)
        self.head_norm = nn.LayerNorm(width)
        self.head1 = nn.Linear(n_modalities * width + 1, config.head_hidden)
        self.head_dropout = nn.Dropout(config.dropout)
        self.head2 = nn.Linear(config.head_hidden, 1)

    @classmethod
    def of(cls, model: PerMMoE) -> ReferencePerMMoE:
        """A reference with the weights of `model`, which has a router for each modality and the six-layer CNN."""
        reference = cls(model.config)
        with torch.no_grad():
            for own, copy in corresponding(model.state_dict(), dict(reference.named_parameters()), model.config):
                copy.copy_(own)
        return reference

    def forward(self, batch: Batch) -> Output:
        tokens = [self._tokens(m, name, batch) for m, name in enumerate(self.config.names)]
        return self.fused(tokens, batch)

    def _tokens(self, m: int, name: str, batch: Batch) -> Tensor:
        """One modality's tokens for every visit: encoded where observed, learned for the observed set elsewhere."""
        observed = batch.observed[:, m]
        tokens = torch.zeros(len(observed), self.config.tokens, self.config.width)
        if observed.any():
            tokens[observed] = self.encoders[name](batch.inputs[name])
        if (~observed).any():
            sets = (batch.observed * 2 ** torch.arange(batch.observed.shape[1])).sum(1)
            tokens[~observed] = self.missing[sets[~observed], m]
        return tokens

    def fused(self, tokens: list[Tensor], batch: Batch) -> Output:
        """The prediction from each modality's tokens: everything behind the encoders."""
        x = torch.stack(tokens, dim=1) + self.modality_embedding + self.position_embedding
        n, n_modalities, n_tokens, width = x.shape
        flat = x.reshape(n, n_modalities * n_tokens, width)
        flat = flat + self.dropout1(self.attention(self.norm1(flat)))
        mixed, routed = [], []
        for router, own in zip(self.routers, flat.split(n_tokens, dim=1), strict=True):
            rows = self.norm2(own).reshape(-1, width)
            clean, noisy, gates, load = router(rows)
            mixed.append(own + self.dropout2(self.experts(rows, gates).view_as(own)))
            routed.append([x.view(n, n_tokens, -1) for x in (clean, noisy, gates, load)])
        scaled = (batch.baseline - self.config.baseline_centre_points) / self.config.baseline_scale_points
        summary = torch.cat([self.head_norm(own.mean(1)) for own in mixed] + [scaled[:, None]], dim=1)
        prediction = self.head2(self.head_dropout(F.gelu(self.head1(summary))))[:, 0]
        clean, noisy, gates, load = (torch.stack(x, 1) for x in zip(*routed, strict=True))
        return Output(prediction, Routing(clean, noisy, gates, batch.observed, load, len(self.routers)))


RENAMED = {
    "attention.modality_embedding": "modality_embedding", "attention.position_embedding": "position_embedding",
    "attention.norm": "norm1", "attention.expert_norm": "norm2", "attention.to_qkv": "attention.to_qkv",
    "attention.project": "attention.project", "head.norm": "head_norm", "head.hidden": "head1", "head.out": "head2",
}  # fmt: skip
"""permmoe's names to those that the reference has for the same parameters."""


def corresponding(
    values: Mapping[str, Tensor], reference_values: Mapping[str, Tensor], config: ModelConfig
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each of permmoe's parameters (or gradients) with the reference's; views of both, of equal shape."""
    for name, value in values.items():
        match name.split("."):
            case ["encoders", modality, "features", _, kind]:
                layers = [n for n in values if n.startswith(f"encoders.{modality}.features.") and n.endswith(kind)]
                yield value, reference_values[f"encoders.{modality}.conv{layers.index(name) + 1}.{kind}"]
            case ["encoders", modality, "project", kind]:
                yield value, reference_values[f"encoders.{modality}.fc.{kind}"]
            case ["missing_bank", _]:
                for row, (mask, missing) in enumerate(bank_pairs(len(config.modalities))):
                    yield value[row], reference_values["missing"][mask, missing]
            case ["routers", kind]:
                for m, own in enumerate(value):
                    yield own, reference_values[f"routers.{m}.{kind}"]
            case ["experts", kind]:
                yield from looped_pairs(kind, value, reference_values, "experts.experts")
            case _ if name in RENAMED:
                yield value, reference_values[RENAMED[name]]
            case [*_, kind]:
                yield value, reference_values[f"{RENAMED[name.removesuffix(f'.{kind}')]}.{kind}"]


def looped_pairs(
    kind: str, stacked: Tensor, reference_values: Mapping[str, Tensor], prefix: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each expert's slice of the stacked w1, b1, w2 or b2, with that of its layer in the list."""
    layer = "0" if kind.endswith("1") else "2"
    for e, own in enumerate(stacked):
        if kind.startswith("w"):
            yield own, reference_values[f"{prefix}.{e}.{layer}.weight"].T
        else:
            yield own, reference_values[f"{prefix}.{e}.{layer}.bias"]
