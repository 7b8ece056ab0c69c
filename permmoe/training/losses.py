"""The losses that training minimises: squared error, plus λ (balance + specialisation), each of one batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from permmoe.config import OUR_ROUTING_LOSSES, RoutingLosses, TrainConfig
from permmoe.data.batch import Batch, observed_masks
from permmoe.layers.routers import Routing
from permmoe.modality import designated_expert
from permmoe.model import Output

LEAST_SQUARED_MEAN = 1e-10
"""Keeps the variation of experts that received nothing at zero."""
LEAST_IMPORTANCE = 1e-12
"""Keeps the share and the entropy of what received nothing at zero."""


@dataclass(frozen=True)
class Shares:
    """A micro-batch's share of its batch, for each of the counts that the losses are means over."""

    visits: float
    observed: float
    """Share of the observed modalities of all visits."""
    incomplete: float
    """Share of the visits that lack a modality."""

    @classmethod
    def of(cls, micro: Bool[Tensor, "micro modality"], whole: Bool[Tensor, "batch modality"]) -> Shares:
        """The shares by which modalities are observed; 0 of what the whole batch has none of."""
        counts = [(len(x), int(x.sum()), int((~x.all(1)).sum())) for x in (micro, whole)]
        return cls(*(n / max(n_whole, 1) for n, n_whole in zip(*counts, strict=True)))


WHOLE = Shares(1.0, 1.0, 1.0)


def total_loss(
    output: Output, batch: Batch, config: TrainConfig, shares: Shares = WHOLE, likelihood: str = "laplace"
) -> Float[Tensor, ""]:
    """Mean squared error in squared points, that of the unimodal heads, the contrastive loss of clusters over observed
    modalities, and the auxiliary losses, where switched on.

    Every target must be known: a NaN stays a NaN. With `shares` the losses of micro-batches add up to the batch's, but
    for the balance loss: it compares the visits that it is given, and is weighted by the number of visits.
    `likelihood`: the spread's, as `ModelConfig.spread` names it; of a model without a head for it, it plays no role.
    """
    loss = shares.visits * F.mse_loss(output.prediction, batch.target)
    if output.unimodal is not None:
        loss = loss + shares.observed * config.unimodal_weight * unimodal_loss(output.unimodal, batch)
    if output.misalignment is not None:
        alignment = mean_of_observed(output.misalignment, batch)
        loss = loss + shares.observed * config.alignment_weight * alignment
    if output.spread is not None:
        loss = loss + shares.visits * spread_loss(output, batch, likelihood)
    if config.balance:
        balance = balance_loss(output.routing, config.routing_losses)
        loss = loss + shares.visits * config.auxiliary_weight * balance
    if config.specialisation:
        specialisation = specialisation_loss(output.routing, config.routing_losses)
        loss = loss + shares.incomplete * config.auxiliary_weight * specialisation
    return loss


def masked_total_loss(
    output: Output,
    target: Float[Tensor, " place"],
    is_visit: Bool[Tensor, " place"],
    config: TrainConfig,
    likelihood: str = "laplace",
) -> Float[Tensor, ""]:
    """`total_loss` of the visits in a batch that is filled up to some size; 0 without a visit.

    No shape depends on who is there. Of what fills the batch, inputs, targets and predictions may be any numbers.
    """
    routing, n_visits = output.routing, is_visit.sum().clamp(min=1)
    squared = torch.where(is_visit, (output.prediction - target).square(), 0.0)
    loss = squared.sum() / n_visits
    if output.unimodal is not None:
        is_seen = routing.observed & is_visit[:, None]
        squared = torch.where(is_seen, (output.unimodal - target[:, None]).square(), 0.0)
        loss = loss + config.unimodal_weight * squared.sum() / is_seen.sum().clamp(min=1)
    if output.spread is not None:
        loss = loss + torch.where(is_visit, negative_log_likelihood(output, target, likelihood), 0.0).sum() / n_visits
    # To the losses of the routing a filler is a visit with all modalities that was sent nowhere.
    there = is_visit[:, None, None, None]
    routing = replace(
        routing,
        observed=routing.observed | ~is_visit[:, None],
        gates=routing.gates * there,
        load=routing.load * there,
    )
    if config.balance:
        loss = loss + config.auxiliary_weight * balance_loss(routing, config.routing_losses)
    if config.specialisation:
        loss = loss + config.auxiliary_weight * specialisation_loss(routing, config.routing_losses)
    return loss


def unimodal_loss(unimodal: Float[Tensor, "batch modality"], batch: Batch) -> Float[Tensor, ""]:
    """Mean squared error of the unimodal heads over the observed modalities of all visits, squared points."""
    return mean_of_observed((unimodal - batch.target[:, None]).square(), batch)


def mean_of_observed(values: Float[Tensor, "batch modality"], batch: Batch) -> Float[Tensor, ""]:
    """Over the observed modalities of all visits; no device is waited for."""
    chosen = batch.observed.flatten().nonzero().squeeze(1).to(values.device, non_blocking=True)
    return values.flatten().index_select(0, chosen).mean()


def spread_loss(output: Output, batch: Batch, likelihood: str) -> Float[Tensor, ""]:
    """Mean negative log likelihood, but for constants, of residuals that are Laplace or Gaussian with the spread.

    Nothing flows back to the prediction. Raises ValueError for an output without a spread.
    """
    return negative_log_likelihood(output, batch.target, likelihood).mean()


def negative_log_likelihood(
    output: Output, target: Float[Tensor, " batch"], likelihood: str
) -> Float[Tensor, " batch"]:
    """The same of each visit."""
    if output.spread is None:
        raise ValueError("the model has no head for the spread; set model.spread")
    times = (target - output.prediction.detach()).abs() / output.spread
    return output.spread.log() + (times if likelihood == "laplace" else times.square() / 2)


def balance_loss(routing: Routing, how: RoutingLosses = OUR_ROUTING_LOSSES) -> Float[Tensor, ""]:
    """Squared coefficient of variation over experts of importance and of load, added, for each pool of tokens.

    Importance is the sum of an expert's gates (Shazeer 2017, equations 6, 7 and 11). By default a pool is what a router
    sees, and the average over pools keeps λ's meaning whether there are one or |M| routers. It couples the visits of a
    batch: switch it off under per-sample privacy. With `balance: entropy` it is `entropy_loss` instead.
    """
    if how.balance == "entropy":
        return entropy_loss(routing)
    n_pools = routing.n_routers if how.balance_pool == "router" else routing.gates.shape[1]
    gates, load = routing.gates, routing.load
    if how.balance_visits == "together":
        variation = _pooled_variation(gates, load, n_pools, how)
    else:
        is_full = routing.observed.all(1).to(gates.device, non_blocking=True).view(-1, 1, 1, 1)
        variation = _pooled_variation(gates * is_full, load * is_full, n_pools, how)
        # Expert 0 is the one designated for visits with all modalities.
        of_others = (gates * ~is_full)[..., 1:], (load * ~is_full)[..., 1:]
        variation = variation + _pooled_variation(*of_others, n_pools, how)
    return variation.mean() if how.over_modalities == "mean" else variation.sum()


def entropy_loss(routing: Routing) -> Float[Tensor, ""]:
    """Mean entropy of the modalities' expert shares minus the entropy of their mean share, nats, as in FuseMoE's text.

    A modality's share of an expert is its mean gate over the tokens that were routed, so that shares sum to 1. The loss
    is minus the Jensen-Shannon divergence of the modalities that have tokens: 0 where all use the experts alike, −ln of
    their number where none shares an expert with another.
    """
    importance = routing.gates.sum((0, 2))
    total = importance.sum(1, keepdim=True)
    share = importance / total.clamp(min=LEAST_IMPORTANCE)
    n_modalities = (total > 0).sum().clamp(min=1)
    return _entropy(share).sum() / n_modalities - _entropy(share.sum(0) / n_modalities)


def _entropy(share: Float[Tensor, "*pool expert"]) -> Float[Tensor, "*pool"]:
    """Nats; an expert without a share adds nothing, and its gradient is a number."""
    return -(share * share.clamp(min=LEAST_IMPORTANCE).log()).sum(-1)


def specialisation_loss(routing: Routing, how: RoutingLosses = OUR_ROUTING_LOSSES) -> Float[Tensor, ""]:
    """Cross-entropy between a token's logits and the expert designated for its visit's observed set.

    The mean over the tokens that were routed, imputed ones included, of visits that lack a modality, and the mean or
    the sum over modalities; 0 where there are none. Visits with all modalities are left to the balance loss (Flex-MoE,
    section 3.3).
    """
    logits = routing.logits if how.specialised_logits == "clean" else routing.noisy
    _, n_modalities, n_tokens, n_experts = logits.shape
    device = logits.device
    experts = torch.tensor(_designated(n_modalities, n_experts), device=routing.observed.device)
    lacks_one = (~routing.observed.all(1)).to(device, non_blocking=True)
    target = experts[observed_masks(routing.observed)].to(device, non_blocking=True)
    chosen = target.view(-1, 1, 1, 1).expand(-1, n_modalities, n_tokens, 1)
    by_modality = logits.log_softmax(-1).gather(-1, chosen).mean((2, 3))
    if routing.present is None:
        log_chance = by_modality.mean(1)
    else:
        log_chance = (by_modality * routing.present).sum(1) / routing.present.sum(1)
    loss = -(log_chance * lacks_one).sum() / lacks_one.sum().clamp(min=1)
    return loss if how.over_modalities == "mean" else n_modalities * loss


@cache
def _designated(n_modalities: int, n_experts: int) -> tuple[int, ...]:
    """The designated expert of each mask; mask 0 has no visit."""
    return (0, *(designated_expert(mask, n_modalities, n_experts) for mask in range(1, 1 << n_modalities)))


def _pooled_variation(
    gates: Float[Tensor, "batch modality token expert"],
    load: Float[Tensor, "batch modality token expert"],
    n_pools: int,
    how: RoutingLosses,
) -> Float[Tensor, " pool"]:
    """The squared variation of importance plus that of load, in each pool: each modality, or all together."""
    importance = gates.sum((0, 2))
    rows = load.transpose(0, 1).flatten(1, 2)
    if n_pools == 1:
        importance, rows = importance.sum(0, keepdim=True), rows.flatten(0, 1).unsqueeze(0)
    return _squared_variation(importance, how) + _squared_variation(rows.sum(1), how)


def _squared_variation(amount: Float[Tensor, "pool expert"], how: RoutingLosses) -> Float[Tensor, " pool"]:
    """Variance over squared mean: 0 for a single expert, for none, and where nothing was given to any."""
    n_experts = amount.shape[1]
    if n_experts == 0:
        return amount.sum(1)
    correction = 1 if how.variance == "sample" and n_experts > 1 else 0
    return amount.var(1, correction=correction) / amount.mean(1).square().clamp(min=LEAST_SQUARED_MEAN)
