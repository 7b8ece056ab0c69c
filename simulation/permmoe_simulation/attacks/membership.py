"""Membership inference: was this patient among those that a site trained with?

The attacker knows the patient's record and asks whether what came back fits it. Two scores, higher for a member:
the share of the patient's loss that the update takes away (Yeom et al. 2018, arXiv 1709.01604), and the cosine
between the update and the direction in which that patient alone would have moved the model (Nasr et al. 2019,
arXiv 1812.00910, use the same gradient).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from permmoe.data.batch import Batch
from permmoe.data.dataset import VisitData
from permmoe.data.visits import VisitTable
from permmoe.federated.modules import ModuleLayout
from permmoe.model import PerMMoE
from permmoe_simulation.attacks.observation import Observation

SCORES = ("loss_drop", "alignment")


@dataclass(frozen=True)
class MembershipScores:
    """How much the observation looks as if the patient had been trained with."""

    loss_drop: float
    """Share of the patient's squared error that the update takes away; below zero where it adds to it."""
    alignment: float
    """Cosine of the update with the patient's own descent direction, over the modules that came back."""


def canary_of(data: VisitData, row: int, target_points: float) -> VisitData:
    """The visit of this row with an outcome, CDR-SB points, that no one would expect of it: easy to find."""
    visit = data.subset(torch.tensor([row]))
    [record] = visit.visits
    record = replace(record, delta_cdrsb=target_points)
    return replace(visit, visits=VisitTable((record,)), target=torch.tensor([target_points]))


def joined(data: VisitData, more: VisitData) -> VisitData:
    """Both parts of the same cohort, `more` behind `data`. Raises DataError where they share a patient."""
    return replace(
        data,
        visits=VisitTable((*data.visits, *more.visits)),
        observed=torch.cat([data.observed, more.observed]),
        baseline=torch.cat([data.baseline, more.baseline]),
        target=torch.cat([data.target, more.target]),
        stored_rows=torch.cat([data.stored_rows, more.stored_rows]),
    )


def membership_scores(seen: Observation, patient: VisitData) -> MembershipScores:
    """Both scores of one patient; 0 where nothing came back."""
    batch = patient.batch(torch.arange(len(patient)))
    before = seen.model_before()
    with torch.no_grad():
        loss_before, loss_after = _squared_error(before, batch), _squared_error(seen.model_after(), batch)
    changes = seen.changes()
    if not changes:
        return MembershipScores(0.0, 0.0)
    descent = _descent(before, batch)
    moved = torch.cat([changes[name] for name in changes])
    wanted = torch.cat([descent[name] for name in changes])
    return MembershipScores(
        loss_drop=float(1 - loss_after / loss_before.clamp(min=1e-12)),
        alignment=float(F.cosine_similarity(moved, wanted, dim=0)),
    )


def _squared_error(model: PerMMoE, batch: Batch) -> Float[Tensor, ""]:
    return F.mse_loss(model(batch).prediction, batch.target)


def _descent(model: PerMMoE, batch: Batch) -> dict[str, Float[Tensor, " n"]]:
    """Minus the gradient of the patient's squared error, by module; a frozen parameter's is 0."""
    _squared_error(model, batch).backward()  # type: ignore[no-untyped-call]
    gradients = {n: torch.zeros_like(p) if p.grad is None else -p.grad for n, p in model.named_parameters()}
    return ModuleLayout.of(model).flatten_all(gradients)
