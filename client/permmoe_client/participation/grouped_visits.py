"""Visits with what of them counts in sums over groups of patients, also by severity at the visit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64

from permmoe.calibration.calibration import severity_group
from permmoe.data.batch import observed_masks
from permmoe.data.dataset import VisitData
from permmoe.federated.release_account import Labels
from permmoe.federated.survey_facts import COUNTED, Facts

UNTOLD = -1
"""The severity of a visit that counts without one."""


@dataclass(frozen=True)
class GroupedVisits:
    """Visits as they count in sums."""

    data: VisitData
    """With the modalities that count."""
    severity: Int64[np.ndarray, " visit"] | None = None
    """Each visit's severity group, or UNTOLD; None where sums are not by severity."""


def severity_facts(data: VisitData, ends: tuple[float, ...]) -> Facts:
    """What may be told of a visit: its modalities and its severity group. `ends`: upper ends of all groups but the
    last, points."""
    return Facts(tuple(data.names), ends, has_outcome=False)


def present_facts(data: VisitData, facts: Facts) -> Mapping[str, int]:
    """By subject, what there is to tell."""
    groups = severity_group(data.baseline.double().numpy(), facts.bounds).tolist()
    masks = observed_masks(data.observed).tolist()
    return {
        # The bits of modalities follow that of `COUNTED`.
        visit.subject_id: COUNTED | mask << 1 | facts.severity_bits[group]
        for visit, mask, group in zip(data.visits, masks, groups, strict=True)
    }


def as_told(data: VisitData, facts: Facts, labels: Labels) -> GroupedVisits:
    """The visits with what is told of them. `labels`: by subject; who has none counts in nothing."""
    told = [facts.described(labels.get(visit.subject_id, 0)) for visit in data.visits]
    counts = torch.tensor([[name in one.modalities for name in data.names] for one in told], dtype=torch.bool)
    severity = np.array([UNTOLD if one.severity is None else one.severity for one in told], np.int64)
    # Visits that count with no modality are not among the limited ones.
    return GroupedVisits(data.limited(counts), severity[counts.any(1).numpy()])
