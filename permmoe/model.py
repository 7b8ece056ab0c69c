"""PerM-MoE, the forward pass from top to bottom (arXiv 2509.12234); with one shared router, Flex-MoE (2410.08245)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from permmoe.config import ModelConfig
from permmoe.data.batch import Batch
from permmoe.layers.attention import FUSIONS, FlexMoEAttention, FusionAttention
from permmoe.layers.clusters import Clusters
from permmoe.layers.experts import Experts
from permmoe.layers.harmonisation import Harmonisation
from permmoe.layers.initialisation import initialise_as_flex_moe
from permmoe.layers.input_kinds import INPUT_KINDS
from permmoe.layers.missing_bank import MissingBank
from permmoe.layers.noise import Dropout, dropped
from permmoe.layers.ridge import CombinationRidge
from permmoe.layers.routers import Routers, Routing
from permmoe.layers.spread import SpreadHead
from permmoe.layers.translation import Translator

__all__ = ["Encoded", "Output", "PerMMoE", "Routing"]


@dataclass(frozen=True)
class Encoded:
    """The observed inputs of some visits, encoded one by one: all that is the same for every combination."""

    names: tuple[str, ...]
    """Modalities, in the model's order."""
    observed: Bool[Tensor, "batch modality"]
    baseline: Float[Tensor, " batch"]
    """CDR-SB at the visit, points."""
    tokens: Mapping[str, Float[Tensor, "n token dim"]]
    """For each modality that any visit has, a row for every visit that has it, in batch order."""
    features: Mapping[str, Float64[Tensor, "n feature"]] = field(default_factory=dict)
    """The same inputs as the ridge sees them; empty without a ridge, and while training unless it translates."""
    horizon: Float[Tensor, " batch"] | None = None
    """Months, for a model that is told."""

    def keeping(self, visits: Int[Tensor, " row"], kept: Bool[Tensor, "row modality"]) -> Encoded:
        """The visits of these rows, as if only the kept modalities had been collected; a visit may come repeatedly.

        `kept` must be a subset of what each visit has.
        """
        # tokens[name] holds only visits that have the modality. Counting those from the top gives each visit's row.
        row_of_visit = self.observed.long().cumsum(0) - 1
        rows = {name: row_of_visit[visits[kept[:, j]], j] for j, name in enumerate(self.names) if name in self.tokens}
        return Encoded(
            self.names,
            kept,
            self.baseline[visits],
            {name: tokens[rows[name]] for name, tokens in self.tokens.items()},
            {name: features[rows[name]] for name, features in self.features.items()},
            None if self.horizon is None else self.horizon[visits],
        )

    def with_baseline(self, baseline: Float[Tensor, " batch"]) -> Encoded:
        """The same inputs, had the visits this score, points."""
        return replace(self, baseline=baseline)


@dataclass(frozen=True)
class Output:
    """A prediction for every visit, and how it came about."""

    prediction: Float[Tensor, " batch"]
    """Change in CDR-SB at the horizon, points."""
    routing: Routing
    spread: Float[Tensor, " batch"] | None = None
    """How far off the prediction may be, points; None of a model without a head for it."""
    unimodal: Float[Tensor, "batch modality"] | None = None
    """What each observed modality predicts by itself, points; None unless a model with unimodal heads is training."""
    misalignment: Float[Tensor, "batch modality"] | None = None
    """The contrastive loss of each observed modality's tokens (permmoe.layers.clusters), nats; None unless a model with
    clusters is training."""
    by_member: Float[Tensor, "batch member"] | None = None
    """What the members of an ensemble predict, points; None of a single model."""


class PerMMoE(nn.Module):
    """Progression from whichever modalities a visit has: encode, impute, attend, route, predict.

    A model keeps no running statistics: its parameters are its whole state.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict({m.name: INPUT_KINDS[m.kind].encoder(m, config) for m in config.modalities})
        self.missing_bank = MissingBank(config)
        self.attention: FusionAttention | FlexMoEAttention = FUSIONS[config.fusion](config)
        self.routers = Routers(config)
        self.experts = Experts(config)
        self.head: Head | LinearHead = HEADS[config.head](config)
        self.unimodal_heads = nn.ModuleDict(
            {name: UnimodalHead(config) for name in config.names} if config.unimodal_heads else {}
        )
        self.ridge = CombinationRidge(config) if config.ridge else None
        # It is asked by whoever loads a site's visits (permmoe.evaluation.harmonised), and not in the forward pass.
        self.harmonisation = Harmonisation(config) if config.harmonisation else None
        self.translator = Translator(config) if config.bank == "translated" else None
        self.clusters = Clusters(config) if config.bank == "clusters" else None
        if config.initialisation == "flex_moe":
            initialise_as_flex_moe(self)
        # Last, so that it changes no other initial weight.
        self.spread = SpreadHead(config) if config.spread != "none" else None

    def forward(self, batch: Batch, *, recompute: bool = False) -> Output:
        """Predict for each visit. Raises ValueError where `inputs` and `observed` disagree, or a visit has nothing.

        `recompute` trades time for memory in a backward pass (see `encode`) and changes no bit.
        """
        return self.fuse(self.encode(batch, recompute=recompute))

    def encode(self, batch: Batch, *, recompute: bool = False) -> Encoded:
        """The tokens of all observed inputs.

        With `recompute`, a backward pass computes the encoders' activations again, with the same dropout, instead of
        keeping them in memory.
        """
        inputs = {name: batch.inputs[name] for name in self.config.names if len(batch.inputs.get(name, ()))}
        tokens = {}
        for name, rows in inputs.items():
            encoder = self.encoders[name]
            tokens[name] = (checkpoint(encoder, rows, use_reentrant=False) if recompute else encoder(rows)).float()
        # The ridge predicts nothing while training: the experts would learn its residuals on visits that it was fitted
        # to, and on other visits its residuals are larger.
        ridge = None if self.training and not self.translator else self.ridge
        features = {name: ridge.features(name, rows) for name, rows in inputs.items()} if ridge else {}
        return Encoded(self.config.names, batch.observed, batch.baseline, tokens, features, batch.horizon)

    def fuse(self, encoded: Encoded) -> Output:
        """Predict from encoded visits: all of the model behind the encoders. Raises as `forward`.

        In evaluation, predictions are held within the outcome's range; in training they are not, for at a bound a
        gradient would be zero.
        """
        tokens, present = self.completed(encoded), self.missing_bank.present(encoded.observed)
        hidden = self.attention(tokens, present)
        normed = self.attention.expert_norm(hidden)
        routing: Routing = self.routers(normed, encoded.observed, present)
        mixed = self.experts(normed.flatten(0, 2), routing.gates.flatten(0, 2)).view_as(hidden)
        hidden = only(hidden + dropped(mixed, self.config.dropout, self.training), present)
        prediction: Tensor = self.head(hidden, encoded.baseline, encoded.horizon)
        spread = self.spread(hidden, encoded.baseline, encoded.observed, prediction) if self.spread else None
        if self.training:
            misalignment = self.clusters.misalignment(tokens) if self.clusters else None
            return Output(prediction, routing, spread, self.unimodal(tokens), misalignment)
        if self.ridge and self.config.ridge and self.config.ridge.share:
            linear = self.ridge(encoded.features, encoded.observed, encoded.baseline)
            prediction = torch.lerp(prediction, linear, self.config.ridge.share)
        if line := self.config.at_hospital:
            prediction = line.intercept + line.slope * prediction
        if self.config.outcome_range:
            prediction = prediction.clamp(*self.config.outcome_range)
        return Output(prediction, routing, spread)

    def unimodal(self, tokens: Float[Tensor, "batch modality token dim"]) -> Float[Tensor, "batch modality"] | None:
        """What each modality's tokens predict by themselves, points; None of a model without heads for it."""
        if not self.unimodal_heads:
            return None
        heads = zip(self.unimodal_heads.values(), tokens.unbind(1), strict=True)
        return torch.stack([head(of_modality) for head, of_modality in heads], dim=1)

    def completed(self, encoded: Encoded) -> Float[Tensor, "batch modality token dim"]:
        """Encoded tokens where a modality was observed; elsewhere what stands in for it."""
        observed = encoded.observed
        if not bool(observed.any(1).all()):
            raise ValueError("a visit of this batch has no observed modality")
        # All observed tokens, modality by modality; behind them what stands for the others.
        pieces = []
        for name, n_observed in zip(self.config.names, observed.sum(0).tolist(), strict=True):
            n_rows = len(encoded.tokens.get(name, ()))
            if n_rows != n_observed:
                raise ValueError(f"{n_observed} visits of this batch have {name}, but its input has {n_rows} rows")
            if n_rows:
                pieces.append(encoded.tokens[name])
        others, places_of_others = self._stand_ins(encoded)
        rows = torch.cat([*pieces, *others])
        places = torch.cat([_places_by_modality(observed), places_of_others])
        places = places.to(rows.device, non_blocking=True)
        tokens = torch.empty_like(rows).index_copy(0, places, rows).view(*observed.shape, *rows.shape[1:])
        return self.clusters.completed(tokens, observed) if self.clusters else tokens

    def _stand_ins(self, encoded: Encoded) -> tuple[list[Tensor], Int[Tensor, " missing"]]:
        """Tokens for what each visit lacks, and the place of each."""
        missing = ~encoded.observed
        if not (self.translator and self.ridge):
            return [self.missing_bank(encoded.observed)], missing.flatten().nonzero().flatten()
        inputs = self.translator(self.ridge, encoded.features, encoded.observed)
        # An encoder learns from what was measured alone, as the sites of a federation weigh it.
        with torch.no_grad():
            return [self.encoders[name](rows).float() for name, rows in inputs.items()], _places_by_modality(missing)


def _places_by_modality(chosen: Bool[Tensor, "batch modality"]) -> Int[Tensor, " chosen"]:
    """The chosen places modality by modality, each numbered visit by visit, then by modality."""
    modality, visit = chosen.t().nonzero(as_tuple=True)
    return visit * chosen.shape[1] + modality


def only(
    tokens: Float[Tensor, "batch modality token dim"], present: Bool[Tensor, "batch modality"] | None
) -> Float[Tensor, "batch modality token dim"]:
    """The tokens of the modalities that are present, zeros in the place of others; None: all as they are."""
    return tokens if present is None else tokens * present[:, :, None, None]


class UnimodalHead(nn.Module):
    """A linear prediction from one modality's tokens; it makes the encoder learn what its modality says alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.tokens * config.width)
        self.out = nn.Linear(config.tokens * config.width, 1)

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, " batch"]:
        """Change in CDR-SB, points."""
        prediction: Tensor = self.out(self.norm(tokens.flatten(1)))
        return prediction.squeeze(1).float()


class Head(nn.Module):
    """The prediction head: a perceptron on each modality's mean token, in the order of M, and baseline CDR-SB.

    Of a model that is told the horizon it has the horizon, too, and what it predicts grows in proportion to it: a line
    through no change at the visit, bent by what the perceptron makes of the horizon.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.centre_points, self.scale_points = config.baseline_centre_points, config.baseline_scale_points
        self.horizons = config.horizons_months
        self.norm = nn.LayerNorm(config.width)
        inputs = len(config.modalities) * config.width + (2 if self.horizons else 1)
        self.hidden = nn.Linear(inputs, config.head_hidden)
        self.dropout = Dropout(config.dropout)
        self.out = nn.Linear(config.head_hidden, 1)

    def forward(
        self,
        tokens: Float[Tensor, "batch modality token dim"],
        baseline: Float[Tensor, " batch"],
        horizon: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """Change in CDR-SB, points, from tokens, baseline CDR-SB in points and the horizon in months.

        Raises ValueError where a model that is told the horizon gets none.
        """
        scaled = [((baseline - self.centre_points) / self.scale_points).unsqueeze(1)]
        share = None
        if self.horizons:
            if horizon is None:
                raise ValueError("the model is told the horizon (model.horizons_months), and the batch has none")
            share = horizon / (sum(self.horizons) / len(self.horizons))
            scaled.append(share.unsqueeze(1) - 1)
        summary = torch.cat([self.norm(tokens.mean(2)).flatten(1), *scaled], dim=1)
        prediction: Tensor = self.out(self.dropout(F.gelu(self.hidden(summary))))
        change = prediction.squeeze(1).float()
        return change if share is None else share * change


class LinearHead(nn.Module):
    """One linear map of each modality's mean token and of baseline CDR-SB: Flex-MoE's head of a single layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.centre_points, self.scale_points = config.baseline_centre_points, config.baseline_scale_points
        self.out = nn.Linear(len(config.modalities) * config.width + 1, 1)

    def forward(
        self,
        tokens: Float[Tensor, "batch modality token dim"],
        baseline: Float[Tensor, " batch"],
        horizon: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """As `Head.forward`, of a model that is told no horizon."""
        scaled = (baseline - self.centre_points) / self.scale_points
        prediction: Tensor = self.out(torch.cat([tokens.mean(2).flatten(1), scaled.unsqueeze(1)], dim=1))
        return prediction.squeeze(1).float()


HEADS: dict[str, type[Head] | type[LinearHead]] = {"perceptron": Head, "linear": LinearHead}
"""By the name that `ModelConfig.head` gives."""
