"""Tabular modalities: numbers that stand in the manifest itself, scaled by the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float64
from torch import Tensor

from permmoe.config import VolumeGrid
from permmoe.data.cache import VolumeCache
from permmoe.data.cells import parse_number
from permmoe.data.kinds.kind import Reading, RowPlace
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.rows import MemoryRows, Stem
from permmoe.data.visits import Visit
from permmoe.modality import Modality


@dataclass(frozen=True)
class TabularSource:
    """The numbers of one modality by subject, in the order of its columns."""

    numbers: Mapping[str, tuple[float, ...]]
    n_columns: int

    def __contains__(self, subject_id: object) -> bool:
        return subject_id in self.numbers

    def n_bytes(self) -> int:
        """0: numbers are always in memory."""
        return 0

    def rows(self, subjects: Sequence[str], *, in_memory: bool) -> MemoryRows:
        """The subjects' numbers as they were measured."""
        values = [self.numbers[subject] for subject in subjects]
        return MemoryRows(torch.tensor(values, dtype=torch.float32).reshape(len(values), self.n_columns))


@dataclass(frozen=True)
class TabularKind:
    """Numeric columns of the manifest, all of them filled or all empty. Modalities may share a column."""

    is_image: bool = False
    is_of_earlier_visits: bool = False

    def columns(self, modality: Modality) -> tuple[str, ...]:
        """The columns that the modality declares."""
        return modality.columns

    def read_cells(self, modality: Modality, row: Mapping[str, str], place: RowPlace) -> Reading:
        """The numbers of all columns; a reason where only some are there or one is no finite number.

        Empty cells are missing, and the codes that the modality declares; −1 and −4 are numbers else.
        """
        numbers = [parse_number(row[column]) for column in modality.columns]
        values = [None if number in modality.missing_codes else number for number in numbers]
        if all(value is not None and math.isfinite(value) for value in values):
            return Reading(numbers=tuple(cast(list[float], values)))
        return Reading(left_out=Reason.INCOMPLETE_NUMBERS) if any(v is not None for v in values) else Reading()

    def written_cells(self, modality: Modality, visit: Visit, folder: Path) -> dict[str, object]:
        """The numbers with every digit; no cell where the visit has none."""
        if modality.name not in visit.tables:
            return {}
        return dict(zip(modality.columns, map(repr, visit.tables[modality.name]), strict=True))

    def adni_columns(self, modality: Modality) -> tuple[str, ...]:
        """The columns that the modality declares, under the same names."""
        return modality.columns

    def adni_numbers(self, modality: Modality, values: Mapping[str, float]) -> tuple[float, ...] | None:
        """The values of all columns; None where one is missing."""
        if not all(column in values for column in modality.columns):
            return None
        return tuple(values[column] for column in modality.columns)

    def load(
        self, modality: Modality, visits: Iterable[Visit], grid: VolumeGrid, cache: VolumeCache, stem: Stem | None
    ) -> tuple[TabularSource, list[Quarantined]]:
        """The numbers of every visit that has them; none of them can be broken."""
        numbers = {visit.subject_id: visit.tables[modality.name] for visit in visits if modality.name in visit.tables}
        return TabularSource(numbers, len(modality.columns)), []

    def scaled(self, modality: Modality, values: Float64[Tensor, "visit ..."]) -> Modality:
        """The modality with mean and SD of the rows declared; a constant column keeps its unit."""
        if modality.means:
            return modality
        spread = values.std(dim=0, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)
        scale = {"means": tuple(values.mean(dim=0).tolist()), "deviations": tuple(spread.tolist())}
        return modality.model_copy(update=scale)

    def is_scale_declared(self, modality: Modality) -> bool:
        """Whether both means and deviations are declared."""
        return bool(modality.means and modality.deviations)

    def in_words(self, modalities: Sequence[Modality]) -> str:
        """Which columns are read."""
        tables = "; ".join(f"{modality.name} ({', '.join(modality.columns)})" for modality in modalities)
        return f"Columns of the table of visits: {tables}."
