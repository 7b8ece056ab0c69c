"""Read a finished study's folder into values; the report's only input, and checked here once."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from permmoe.errors import DataError
from permmoe_simulation import summary
from permmoe_simulation.study_tables import RESULTS, StudyTable
from permmoe_simulation.summary import Summary

SLICES = "slices.npz"


@dataclass(frozen=True)
class Study:
    """All that a report shows."""

    summary: Summary
    tables: Mapping[str, pd.DataFrame]
    """The tables that have rows, by name."""
    slices: Mapping[str, Float[np.ndarray, "first second"]] | None
    """Example images by modality and view, such as `t1_axial`; None where the study left none."""

    @property
    def results(self) -> pd.DataFrame:
        """The rows of RESULTS, which every study has."""
        return self.tables[RESULTS.name]

    def table(self, declared: StudyTable) -> pd.DataFrame | None:
        """The rows of a table; None where the study left none."""
        return self.tables.get(declared.name)


def read_study(folder: Path, tables: Iterable[StudyTable]) -> Study:
    """The study with these tables of it.

    Raises DataError where `summary.json` or a required table is missing, or where any file cannot be understood.
    """
    declared = list(tables)
    required = [summary.FILE_NAME, *(table.file_name for table in declared if table.is_required)]
    for name in required:
        if not (folder / name).is_file():
            raise DataError(
                f"{folder} holds no {name}, so it is not the folder of a finished study; run the study first"
            )
    found: dict[str, pd.DataFrame] = {}
    for table in declared:
        rows = table.read(folder)
        if rows is not None:
            found[table.name] = rows
        elif table.is_required:
            raise DataError(f"{folder / table.file_name} holds no {table.name}; run the study again")
    return Study(Summary.read(folder), found, _read_slices(folder / SLICES))


def _read_slices(path: Path) -> dict[str, Float[np.ndarray, "first second"]] | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name], dtype=np.float64) for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read as example slices: {error}. Delete it or run the study again"
        ) from error
