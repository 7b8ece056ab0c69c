"""What is known of visits at several horizons, for a model that is told the horizon (`ModelConfig.horizons_months`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from permmoe.data.visits import Visit
from permmoe.errors import DataError


@dataclass(frozen=True)
class Horizons:
    """Changes of the score at the model's horizons, and the horizon at which each visit is judged."""

    months: Float[Tensor, " horizon"]
    changes: Float[Tensor, "visit horizon"]
    """Points; NaN where unknown."""
    own: Float[Tensor, " visit"]
    """Months: of the outcome that the table of visits is of."""

    @classmethod
    def of(cls, visits: Sequence[Visit], months: Sequence[float]) -> Horizons:
        """Raises DataError for a table whose horizon lies beyond those of the model."""
        low, high = min(months), max(months)
        if beyond := sorted({v.horizon_months for v in visits if not low <= v.horizon_months <= high}):
            sentence = (
                f"the table's outcomes are {beyond[0]:g} months after the visit, and the model is told of {low:g} to "
                f"{high:g} months: choose a horizon among these, or train a model on others (model.horizons_months)"
            )
            raise DataError(sentence, for_log=sentence)
        rows = [[_change(visit, horizon) for horizon in months] for visit in visits]
        return cls(
            torch.tensor(months, dtype=torch.float32),
            torch.tensor(rows, dtype=torch.float32).reshape(len(visits), len(months)),
            torch.tensor([visit.horizon_months for visit in visits], dtype=torch.float32),
        )

    @property
    def known(self) -> Bool[Tensor, "visit horizon"]:
        """Which changes are known."""
        return ~self.changes.isnan()

    def subset(self, rows: Int[Tensor, " n"]) -> Horizons:
        """Those of these visits, in this order."""
        return Horizons(self.months, self.changes[rows], self.own[rows])

    def drawn(self, generator: torch.Generator) -> Int[Tensor, " visit"]:
        """For each visit one of the horizons at which its change is known, each with the same chance. Raises ValueError
        for a visit without any."""
        if not bool(self.known.any(1).all()):
            raise ValueError("no change of a visit is known at any horizon; it cannot train")
        chances = torch.rand(self.changes.shape, generator=generator)
        return torch.where(self.known, chances, -1.0).argmax(1)


def _change(visit: Visit, months: float) -> float:
    if months == visit.horizon_months and visit.delta_cdrsb is not None:
        return visit.delta_cdrsb
    return visit.later_changes.get(months, math.nan)
