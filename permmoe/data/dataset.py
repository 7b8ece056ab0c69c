"""Visits with their numbers at hand: any rows become a batch without touching a file, where memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from permmoe.config import ModelConfig
from permmoe.data.batch import Batch
from permmoe.data.cache import VolumeCache
from permmoe.data.horizons import Horizons
from permmoe.data.kinds import kind_of
from permmoe.data.kinds.kind import Source
from permmoe.data.prefetch import one_ahead
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.rows import FileRows, Rows, Stem
from permmoe.data.visits import Visit, VisitTable

MEMORY_BUDGET_BYTES = 4 * 2**30
"""All modalities together are kept in memory up to this size, unless the caller decides."""
ABSENT = -1


@dataclass(frozen=True)
class VisitData:
    """Visits, and all that a model is given of them. Subsets share the inputs and copy none."""

    visits: VisitTable
    """Without the visits and modalities that were quarantined while loading."""
    names: tuple[str, ...]
    """Modalities, in the model's order."""
    observed: Bool[Tensor, "visit modality"]
    baseline: Float[Tensor, " visit"]
    """CDR-SB at the visit, points."""
    target: Float[Tensor, " visit"]
    """Change in CDR-SB at the horizon, points; NaN where unknown."""
    stored_rows: Int[Tensor, "visit modality"]
    """Each visit's row in `inputs`, `ABSENT` where it lacks the modality."""
    inputs: Mapping[str, Rows]
    horizons: Horizons | None = None
    """What is known at the horizons of a model that is told them; None for any other."""

    @classmethod
    def load(
        cls,
        table: VisitTable,
        model: ModelConfig,
        cache: VolumeCache,
        *,
        stem: Stem | None = None,
        keep_in_memory: bool | None = None,
    ) -> tuple[VisitData, Quarantine]:
        """Read every volume once, through the cache and the stem, and itemise what was broken.

        A broken volume leaves its visit to the other modalities; a visit with none left is dropped. Where the inputs
        exceed `MEMORY_BUDGET_BYTES`, or `keep_in_memory` is False, batches read from the cache instead.
        Nothing is fitted here: tabular columns stay as measured, the model scales them (`fit_scaling`).
        """
        sources: dict[str, Source] = {}
        items: list[Quarantined] = []
        for modality in model.modalities:
            source, broken = kind_of(modality).load(modality, table, model.grid, cache, stem)
            sources[modality.name] = source
            items += broken
        visits: list[Visit] = []
        for visit in table:
            usable = [name for name, source in sources.items() if visit.subject_id in source]
            if usable:
                visits.append(visit.with_only(usable))
            else:
                items.append(Quarantined(visit.subject_id, "", "", Reason.NO_MODALITY))
        if keep_in_memory is None:
            keep_in_memory = sum(source.n_bytes() for source in sources.values()) <= MEMORY_BUDGET_BYTES
        inputs: dict[str, Rows] = {}
        for name, source in sources.items():
            subjects = [visit.subject_id for visit in visits if visit.subject_id in source]
            inputs[name] = source.rows(subjects, in_memory=keep_in_memory)
        observed = torch.tensor(
            [[visit.subject_id in source for source in sources.values()] for visit in visits], dtype=torch.bool
        ).reshape(len(visits), len(model.names))
        deltas = [float("nan") if v.delta_cdrsb is None else v.delta_cdrsb for v in visits]
        data = cls(
            visits=VisitTable(tuple(visits)),
            names=model.names,
            observed=observed,
            baseline=torch.tensor([v.baseline_cdrsb for v in visits], dtype=torch.float32),
            target=torch.tensor(deltas, dtype=torch.float32),
            stored_rows=torch.where(observed, observed.long().cumsum(0) - 1, ABSENT),
            inputs=inputs,
            horizons=Horizons.of(visits, model.horizons_months) if model.horizons_months else None,
        )
        return data, Quarantine(tuple(items))

    def __len__(self) -> int:
        return len(self.visits)

    @property
    def is_on_disk(self) -> bool:
        """Whether batches are read from files."""
        return any(isinstance(rows, FileRows) for rows in self.inputs.values())

    def batches(
        self,
        parts: Sequence[Int[Tensor, " _"]],
        withheld: Bool[Tensor, "visit modality"],
        at: Int[Tensor, " visit"] | None = None,
    ) -> Iterator[Batch]:
        """A batch of each part's rows, in order, as `batch` makes it. From files the next one is read while this one is
        in use."""

        def load(rows: Int[Tensor, " _"]) -> Batch:
            return self.batch(rows, withheld[rows], None if at is None else at[rows])

        return one_ahead(load, parts) if self.is_on_disk else map(load, parts)

    def batch(
        self,
        rows: Int[Tensor, " batch"],
        withheld: Bool[Tensor, "batch modality"] | None = None,
        at: Int[Tensor, " batch"] | None = None,
    ) -> Batch:
        """The visits of these rows, as if the withheld modalities had not been collected.

        `at`: at which of `horizons` each visit's outcome is, by default at its own. Raises ValueError where nothing is
        left of a visit.
        """
        observed = self.observed[rows]
        if withheld is not None:
            observed = observed & ~withheld
        if not bool(observed.any(1).all()):
            raise ValueError("every modality of a visit is withheld; leave it at least one")
        inputs = {}
        for column, name in enumerate(self.names):
            stored = self.stored_rows[rows, column][observed[:, column]]
            if len(stored):
                inputs[name] = self.inputs[name].read(stored)
        target, horizon = self.target[rows], None
        if self.horizons is not None:
            horizon = self.horizons.own[rows] if at is None else self.horizons.months[at]
            target = target if at is None else self.horizons.changes[rows, at]
        return Batch(inputs, observed, self.baseline[rows], target, horizon)

    def subset(self, rows: Int[Tensor, " n"]) -> VisitData:
        """The visits of these rows, in this order, with the same inputs in memory."""
        return replace(
            self,
            visits=VisitTable(tuple(self.visits.visits[row] for row in rows.tolist())),
            observed=self.observed[rows],
            baseline=self.baseline[rows],
            target=self.target[rows],
            stored_rows=self.stored_rows[rows],
            horizons=None if self.horizons is None else self.horizons.subset(rows),
        )

    def limited(self, observed: Bool[Tensor, "visit modality"]) -> VisitData:
        """The visits as if no other modalities had been collected; those that are left with none are not among them.

        `observed` names modalities that the visits have.
        """
        rows = observed.any(1).nonzero().flatten()
        return replace(self.subset(rows), observed=observed[rows])

    def part(self, split: Literal["train", "validation", "test"]) -> VisitData:
        """The visits of one part of the split whose outcome is known; possibly none. A model that is told the horizon
        trains on those, too, whose change is known at another one alone."""
        known = torch.tensor([visit.delta_cdrsb is not None for visit in self.visits], dtype=torch.bool)
        if self.horizons is not None and split == "train":
            known = known | self.horizons.known.any(1)
        rows = [i for i, visit in enumerate(self.visits) if visit.split == split and bool(known[i])]
        return self.subset(torch.tensor(rows, dtype=torch.long))

    def scans(self) -> VisitData:
        """The training visits and all visits without an outcome: what encoders learn from before there is an outcome.

        Nobody who validates or judges a model is among them.
        """
        rows = [i for i, visit in enumerate(self.visits) if visit.split == "train" or visit.delta_cdrsb is None]
        return self.subset(torch.tensor(rows, dtype=torch.long))


def fit_scaling(train: VisitData, model: ModelConfig) -> ModelConfig:
    """The model with each tabular modality's scale declared: mean and SD over the training visits given, and no other.

    Nothing leaks if `train` is `data.part("train")`. A constant column keeps its unit, a scale that is declared already
    stays, and a modality that no training visit has is left as it is.
    """
    modalities = []
    for column, modality in enumerate(model.modalities):
        stored = train.stored_rows[train.observed[:, column], column]
        kind = kind_of(modality)
        if len(stored) and not kind.is_scale_declared(modality):
            modality = kind.scaled(modality, train.inputs[modality.name].read(stored).double())
        modalities.append(modality)
    return model.model_copy(update={"modalities": tuple(modalities)})
