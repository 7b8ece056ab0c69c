"""The losses that training minimises: squared error, plus λ (balance + specialisation), each of one batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from permmoe.config import TrainConfig
from permmoe.data.batch import Batch, observed_masks
from permmoe.layers.routers import Routing
from permmoe.modality import designated_expert
from permmoe.model import Output


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


def total_loss(output: Output, batch: Batch, config: TrainConfig, shares: Shares = WHOLE) -> Float[Tensor, ""]:
    """Mean squared error in squared points, that of the unimodal heads, and the auxiliary losses, where switched on.

    Every target must be known: a NaN stays a NaN. With `shares` the losses of micro-batches add up to the batch's, but
    for the balance loss: it compares the visits that it is given, and is weighted by the number of visits.
    """
    loss = shares.visits * F.mse_loss(output.prediction, batch.target)
    if output.unimodal is not None:
        loss = loss + shares.observed * config.unimodal_weight * unimodal_loss(output.unimodal, batch)
    if config.balance:
        loss = loss + shares.visits * config.auxiliary_weight * balance_loss(output.routing)
    if config.specialisation:
        loss = loss + shares.incomplete * config.auxiliary_weight * specialisation_loss(output.routing)
    return loss


def unimodal_loss(unimodal: Float[Tensor, "batch modality"], batch: Batch) -> Float[Tensor, ""]:
    """Mean squared error of the unimodal heads over the observed modalities of all visits, squared points."""
    squared = (unimodal - batch.target[:, None]).square()
    chosen = batch.observed.flatten().nonzero().squeeze(1).to(squared.device, non_blocking=True)
    return squared.flatten().index_select(0, chosen).mean()


def balance_loss(routing: Routing) -> Float[Tensor, ""]:
    """Squared coefficient of variation over experts of importance and of load, added, averaged over the routers.

    Importance is the sum of an expert's gates (Shazeer 2017, equations 6, 7 and 11). The average keeps λ's meaning
    whether there are one or |M| routers. It couples the visits of a batch: switch it off under per-sample privacy.
    """
    importance = routing.gates.sum((0, 2))
    if len(routing.load) == 1:
        importance = importance.sum(0, keepdim=True)
    return (_squared_variation(importance) + _squared_variation(routing.load)).mean()


def specialisation_loss(routing: Routing) -> Float[Tensor, ""]:
    """Cross-entropy between a token's logits and the expert designated for its visit's observed set.

    The mean over all tokens, imputed ones included, of visits that lack a modality; 0 where there are none. Visits
    with all modalities are left to the balance loss (Flex-MoE, section 3.3).
    """
    _, n_modalities, n_tokens, n_experts = routing.logits.shape
    device = routing.logits.device
    experts = torch.tensor(_designated(n_modalities, n_experts), device=routing.observed.device)
    lacks_one = (~routing.observed.all(1)).to(device, non_blocking=True)
    target = experts[observed_masks(routing.observed)].to(device, non_blocking=True)
    chosen = target.view(-1, 1, 1, 1).expand(-1, n_modalities, n_tokens, 1)
    log_chance = routing.logits.log_softmax(-1).gather(-1, chosen).mean((1, 2, 3))
    return -(log_chance * lacks_one).sum() / lacks_one.sum().clamp(min=1)


@cache
def _designated(n_modalities: int, n_experts: int) -> tuple[int, ...]:
    """The designated expert of each mask; mask 0 has no visit."""
    return (0, *(designated_expert(mask, n_modalities, n_experts) for mask in range(1, 1 << n_modalities)))


def _squared_variation(amount: Float[Tensor, "router expert"]) -> Float[Tensor, " router"]:
    """Population variance over squared mean: 0 for a single expert."""
    return amount.var(1, unbiased=False) / amount.mean(1).square()
