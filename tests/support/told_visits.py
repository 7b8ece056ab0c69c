"""Visits whose change is known at several horizons, for models that are told the horizon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from permmoe.data.dataset import VisitData
from permmoe.data.horizons import Horizons


def told(data: VisitData, months: Sequence[float] = (24.0,), changes: Tensor | None = None) -> VisitData:
    """The visits with these changes [visit, horizon], by default their own, which is of 24 months."""
    known = data.target[:, None].expand(-1, len(months)) if changes is None else changes
    return replace(data, horizons=Horizons(torch.tensor(months), known, torch.full((len(data),), 24.0)))
