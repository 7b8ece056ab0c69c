"""Visits with their numbers at hand: any rows become a batch without touching a file, where memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from permmoe.config import ModelConfig
from permmoe.data.batch import Batch
from permmoe.data.cache import VolumeCache
from permmoe.data.prefetch import one_ahead
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.visits import Visit, VisitTable
from permmoe.data.volumes import BrokenVolume
from permmoe.modality import Modality

Stem = Callable[[Float[Tensor, "n 1 x y z"]], Float[Tensor, "n ..."]]
"""What an encoder does to every volume alike, before anything that is learned."""

MEMORY_BUDGET_BYTES = 4 * 2**30
"""All modalities together are kept in memory up to this size, unless the caller decides."""
ABSENT = -1


@dataclass(frozen=True)
class MemoryRows:
    """Rows in memory, fp16 or fp32."""

    rows: Float[Tensor, "row ..."]

    def read(self, index: Int[Tensor, " n"]) -> Float[Tensor, "n ..."]:
        return self.rows.index_select(0, index).float()


@dataclass(frozen=True)
class FileRows:
    """Rows read from cache entries when asked for. No file stays open: a cohort has more than a process may hold."""

    files: tuple[Path, ...]
    stem: Stem | None

    def read(self, index: Int[Tensor, " n"]) -> Float[Tensor, "n ..."]:
        volumes = np.stack([np.load(self.files[row], allow_pickle=False) for row in index.tolist()])
        return _stemmed(torch.from_numpy(volumes)[:, None], self.stem).float()


Rows = MemoryRows | FileRows
"""One modality's inputs, one row for each visit that has it; `read` gives rows in fp32."""


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
        entries, items = _cached_volumes(table, model, cache)
        visits: list[Visit] = []
        for visit in table:
            usable = {name: visit.volumes[name] for name in entries if visit.subject_id in entries[name]}
            numbers = {name: visit.tables[name] for name in model.names if name in visit.tables}
            if usable or numbers:
                visits.append(replace(visit, volumes=usable, tables=numbers))
            else:
                items.append(Quarantined(visit.subject_id, "", "", Reason.NO_MODALITY))
        if keep_in_memory is None:
            keep_in_memory = _bytes_in_memory(entries, stem) <= MEMORY_BUDGET_BYTES
        inputs: dict[str, Rows] = {}
        for modality in model.modalities:
            if modality.kind == "tabular":
                inputs[modality.name] = _table_rows(visits, modality)
                continue
            files = tuple(entries[modality.name][v.subject_id] for v in visits if modality.name in v.volumes)
            inputs[modality.name] = _stemmed_rows(files, stem) if keep_in_memory else FileRows(files, stem)
        observed = torch.tensor(
            [[name in v.volumes or name in v.tables for name in model.names] for v in visits], dtype=torch.bool
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
        )
        return data, Quarantine(tuple(items))

    def __len__(self) -> int:
        return len(self.visits)

    @property
    def is_on_disk(self) -> bool:
        """Whether batches are read from files."""
        return any(isinstance(rows, FileRows) for rows in self.inputs.values())

    def batches(self, parts: Sequence[Int[Tensor, " _"]], withheld: Bool[Tensor, "visit modality"]) -> Iterator[Batch]:
        """A batch of each part's rows, in order. From files the next one is read while this one is in use."""

        def load(rows: Int[Tensor, " _"]) -> Batch:
            return self.batch(rows, withheld[rows])

        return one_ahead(load, parts) if self.is_on_disk else map(load, parts)

    def batch(self, rows: Int[Tensor, " batch"], withheld: Bool[Tensor, "batch modality"] | None = None) -> Batch:
        """The visits of these rows, as if the withheld modalities had not been collected.

        Raises ValueError where nothing is left of a visit.
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
        return Batch(inputs, observed, self.baseline[rows], self.target[rows])

    def subset(self, rows: Int[Tensor, " n"]) -> VisitData:
        """The visits of these rows, in this order, with the same inputs in memory."""
        return replace(
            self,
            visits=VisitTable(tuple(self.visits.visits[row] for row in rows.tolist())),
            observed=self.observed[rows],
            baseline=self.baseline[rows],
            target=self.target[rows],
            stored_rows=self.stored_rows[rows],
        )

    def part(self, split: Literal["train", "validation", "test"]) -> VisitData:
        """The visits of one part of the split; possibly none."""
        rows = [row for row, visit in enumerate(self.visits) if visit.split == split]
        return self.subset(torch.tensor(rows, dtype=torch.long))


def fit_scaling(train: VisitData, model: ModelConfig) -> ModelConfig:
    """The model with each tabular modality's scale declared: mean and SD over the training visits given, and no other.

    Nothing leaks if `train` is `data.part("train")`. A constant column keeps its unit, a scale that is declared already
    stays, and a modality that no training visit has is left as it is.
    """
    modalities = []
    for column, modality in enumerate(model.modalities):
        stored = train.stored_rows[train.observed[:, column], column]
        if modality.kind == "tabular" and not modality.means and len(stored):
            values = train.inputs[modality.name].read(stored).double()
            spread = values.std(dim=0, correction=0)
            spread = torch.where(spread > 0, spread, 1.0)
            scale = {"means": tuple(values.mean(dim=0).tolist()), "deviations": tuple(spread.tolist())}
            modality = modality.model_copy(update=scale)
        modalities.append(modality)
    return model.model_copy(update={"modalities": tuple(modalities)})


def _cached_volumes(
    table: VisitTable, model: ModelConfig, cache: VolumeCache
) -> tuple[dict[str, dict[str, Path]], list[Quarantined]]:
    """Each volume modality's cache entries by subject, and the broken volumes."""
    entries: dict[str, dict[str, Path]] = {}
    items: list[Quarantined] = []
    for modality in model.modalities:
        if modality.kind != "volume":
            continue
        of_subject = entries[modality.name] = {}
        for visit in table:
            if modality.name in visit.volumes:
                path = visit.volumes[modality.name]
                try:
                    of_subject[visit.subject_id] = cache.entry(path, modality, model.grid)
                except BrokenVolume as broken:
                    items.append(Quarantined(visit.subject_id, modality.name, str(path), broken.reason))
    return entries, items


def _stemmed(volumes: Float[Tensor, "n 1 x y z"], stem: Stem | None) -> Float[Tensor, "n ..."]:
    with torch.no_grad():
        return volumes if stem is None else stem(volumes)


def _stemmed_rows(files: tuple[Path, ...], stem: Stem | None) -> MemoryRows:
    """All rows of a modality, one file in memory at a time besides the result."""
    rows: Tensor | None = None
    for index, file in enumerate(files):
        row = _stemmed(torch.from_numpy(np.load(file, allow_pickle=False))[None, None], stem)
        if rows is None:
            rows = row.new_empty((len(files), *row.shape[1:]))
        rows[index] = row[0]
    return MemoryRows(torch.empty(0, 1) if rows is None else rows)


def _table_rows(visits: list[Visit], modality: Modality) -> MemoryRows:
    values = [visit.tables[modality.name] for visit in visits if modality.name in visit.tables]
    return MemoryRows(torch.tensor(values, dtype=torch.float32).reshape(len(values), len(modality.columns)))


def _bytes_in_memory(entries: Mapping[str, Mapping[str, Path]], stem: Stem | None) -> int:
    """What all volumes would take, judged by the first."""
    files = [file for of_subject in entries.values() for file in of_subject.values()]
    return len(files) * _stemmed_rows((files[0],), stem).rows.nbytes if files else 0
