"""One modality's inputs, one row for each visit that has it: in memory, or read from files when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from permmoe.runtime.file_memory import FileMemory


@runtime_checkable
class Stem(Protocol):
    """What an encoder does to every volume alike, before anything that is learned. Stems that do the same are equal."""

    @property
    def shrinks(self) -> bool:
        """Whether it makes far less of a volume."""

    def __call__(self, volumes: Float[Tensor, "n 1 x y z"]) -> Float[Tensor, "n ..."]:
        """What it makes of some volumes."""

    def __hash__(self) -> int:
        """The same of equal stems."""


REMEMBERED_BYTES = 128 * 2**20
_STEMMED: FileMemory[Tensor] = FileMemory(REMEMBERED_BYTES, lambda row: row.nbytes)
"""What stems made of entries: a process that loads the same visits again, as in a simulation, need not read them."""


@dataclass(frozen=True)
class MemoryRows:
    """Rows in memory, fp16 or fp32."""

    rows: Float[Tensor, "row ..."]

    def read(self, index: Int[Tensor, " n"]) -> Float[Tensor, "n ..."]:
        """The rows of these numbers, in fp32."""
        return self.rows.index_select(0, index).float()


@dataclass(frozen=True)
class FileRows:
    """Rows read from cache entries when asked for. No file stays open: a cohort has more than a process may hold."""

    files: tuple[Path, ...]
    stem: Stem | None

    def read(self, index: Int[Tensor, " n"]) -> Float[Tensor, "n ..."]:
        """The rows of these numbers, in fp32."""
        volumes = np.stack([np.load(self.files[row], allow_pickle=False) for row in index.tolist()])
        return _stemmed(torch.from_numpy(volumes)[:, None], self.stem).float()


Rows = MemoryRows | FileRows


def rows_in_memory(files: tuple[Path, ...], stem: Stem | None) -> MemoryRows:
    """The rows of cache entries, read now; one file at a time is in memory beside the result."""
    rows: Tensor | None = None
    for index, file in enumerate(files):
        read = partial(_row, file, stem)
        row = _STEMMED.get(file, stem, read) if stem and stem.shrinks else read()
        if rows is None:
            rows = row.new_empty((len(files), *row.shape))
        rows[index] = row
    return MemoryRows(torch.empty(0, 1) if rows is None else rows)


def _row(file: Path, stem: Stem | None) -> Float[Tensor, ...]:
    return _stemmed(torch.from_numpy(np.load(file, allow_pickle=False))[None, None], stem)[0]


def _stemmed(volumes: Float[Tensor, "n 1 x y z"], stem: Stem | None) -> Float[Tensor, "n ..."]:
    with torch.no_grad():
        return volumes if stem is None else stem(volumes)
