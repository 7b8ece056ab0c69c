"""What a kind of modality has to answer so that visits of it can be read, cached, batched and described."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Float64
from torch import Tensor

from permmoe.config import VolumeGrid
from permmoe.data.cache import VolumeCache
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.rows import Rows, Stem
from permmoe.data.visits import Visit
from permmoe.modality import Modality


@dataclass(frozen=True)
class RowPlace:
    """Where a row of a manifest stands."""

    manifest: Path
    line: int

    def __str__(self) -> str:
        """As a quarantine's report names it: `manifest.csv:7`."""
        return f"{self.manifest.name}:{self.line}"


@dataclass(frozen=True)
class Reading:
    """What a row of a manifest says of one modality: a file, or numbers, or neither."""

    file: Path | None = None
    numbers: tuple[float, ...] | None = None
    left_out: Reason | None = None
    """Why what the row says cannot be used."""
    culprit: str = ""
    """The file to blame for that; empty where it is the row itself."""


@runtime_checkable
class Source(Protocol):
    """One modality of a table's visits, found and checked."""

    def __contains__(self, subject_id: object) -> bool:
        """Whether a subject's visit has it."""

    def n_bytes(self) -> int:
        """The memory that its rows would take, where they need not be in memory; 0 where they always are."""

    def rows(self, subjects: Sequence[str], *, in_memory: bool) -> Rows:
        """The rows of these subjects' visits, which all have it, in order."""


@runtime_checkable
class Kind(Protocol):
    """A kind of modality, as the data side sees it."""

    @property
    def is_image(self) -> bool:
        """Whether a visit has it as an image file, found in folders and named on the command line as one."""

    @property
    def is_of_earlier_visits(self) -> bool:
        """Whether it is made of visits before the one that is predicted from (permmoe.data.history)."""

    def columns(self, modality: Modality) -> tuple[str, ...]:
        """The columns of the manifest that hold it."""

    def read_cells(self, modality: Modality, row: Mapping[str, str], place: RowPlace) -> Reading:
        """What a row of the manifest says of it. Raises DataError for a row that no manifest may have."""

    def written_cells(self, modality: Modality, visit: Visit, folder: Path) -> dict[str, object]:
        """A visit's cells of it by column; `folder` is the manifest's, absolute."""

    def adni_columns(self, modality: Modality) -> tuple[str, ...]:
        """The columns of ADNIMERGE that it is read from."""

    def adni_numbers(self, modality: Modality, values: Mapping[str, float]) -> tuple[float, ...] | None:
        """What a visit has of it by those columns; None where one is missing or none is meant."""

    def load(
        self, modality: Modality, visits: Iterable[Visit], grid: VolumeGrid, cache: VolumeCache, stem: Stem | None
    ) -> tuple[Source, list[Quarantined]]:
        """All that the visits have of it, and what of that was broken."""

    def scaled(self, modality: Modality, values: Float64[Tensor, "visit ..."]) -> Modality:
        """The modality with the scale of these training rows declared, unless it is declared already or has none."""

    def is_scale_declared(self, modality: Modality) -> bool:
        """Whether a model can be given it as it stands, without a look at training visits."""

    def in_words(self, modalities: Sequence[Modality]) -> str:
        """What a site reads of these modalities, as a sentence for a hospital."""
