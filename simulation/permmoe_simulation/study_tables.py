"""The tables of a study, each declared once: its file, what a row is, and its columns with their types and units.

A study writes its tables by these declarations and the report reads them by the same ones; nothing else passes between
the two but `summary.json` and `slices.npz`. Tables that several sections of the report use, or that cells keep, are
declared here. A table that one section alone shows is declared in the file of that section (report/page.py lists them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from permmoe.errors import DataError
from permmoe.federated.training_figures import FIGURES

OUTCOME_UNIT = "outcome"
"""The unit of whatever the study predicts; `Summary.outcome` names it."""


@dataclass(frozen=True)
class Column:
    """One column. Text is never taken for a number or a missing value: a method may be called `null`, a site `007`."""

    name: str
    type: Literal["text", "whole", "real", "flag"]
    unit: str = ""
    may_be_absent: bool = False
    """Whether a reader accepts files without the column, such as those of an earlier version."""


@dataclass(frozen=True)
class StudyTable:
    """One CSV file in a study's folder."""

    name: str
    row: str
    """What one row stands for."""
    columns: tuple[Column, ...]
    has_modality_columns: bool = False
    """Whether the file also has a column for each modality of the study."""
    is_required: bool = False
    """Whether a folder without the file holds no finished study."""
    is_written_empty: bool = False
    """Whether the file is written even where there is no row."""

    @property
    def file_name(self) -> str:
        """The file's name inside the folder."""
        return f"{self.name}.csv"

    @property
    def required_columns(self) -> list[str]:
        """The names of the columns that every file has."""
        return [column.name for column in self.columns if not column.may_be_absent]

    def write(self, rows: pd.DataFrame, folder: Path) -> None:
        """Write the rows; where there are none, delete the file that an earlier run of the study left.

        Raises ValueError for rows whose columns are not the declared ones.
        """
        path = folder / self.file_name
        if len(rows):
            self._check_columns(rows)
        elif not self.is_written_empty:
            path.unlink(missing_ok=True)
            return
        rows.to_csv(path, index=False)

    def read(self, folder: Path) -> pd.DataFrame | None:
        """The rows; None where the file is missing or has no row. Raises DataError for a file without its columns."""
        path = folder / self.file_name
        if not path.is_file():
            return None
        text = {column.name: str for column in self.columns if column.type == "text"}
        try:
            rows = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=["", "nan", "NaN"])
        except pd.errors.EmptyDataError:
            return None  # pandas writes a table without rows so
        except (ValueError, pd.errors.ParserError) as error:
            raise DataError(f"{path} cannot be read as a table: {error}. Run the study again") from error
        absent = [name for name in self.required_columns if name not in rows.columns]
        if absent:
            raise DataError(
                f"{path} lacks the columns {', '.join(absent)}; it was written by another version of the study"
            )
        return rows if len(rows) else None

    def _check_columns(self, rows: pd.DataFrame) -> None:
        absent = [name for name in self.required_columns if name not in rows.columns]
        if absent:
            raise ValueError(f"rows of {self.file_name} lack the columns {', '.join(absent)}")
        declared = {column.name for column in self.columns}
        unknown = [str(name) for name in rows.columns if name not in declared]
        if unknown and not self.has_modality_columns:
            raise ValueError(f"{self.file_name} does not declare the columns {', '.join(unknown)}")


def text(*names: str) -> tuple[Column, ...]:
    """Columns of text."""
    return tuple(Column(name, "text") for name in names)


def whole(*names: str, unit: str = "") -> tuple[Column, ...]:
    """Columns of whole numbers."""
    return tuple(Column(name, "whole", unit) for name in names)


def real(*names: str, unit: str = "", may_be_absent: bool = False) -> tuple[Column, ...]:
    """Columns of real numbers; NaN where there is no figure."""
    return tuple(Column(name, "real", unit, may_be_absent) for name in names)


def with_interval(name: str, unit: str = OUTCOME_UNIT) -> tuple[Column, ...]:
    """A figure and the ends of its 95% interval over training seeds and subjects; NaN where it is not judged."""
    return real(name, "lower", "upper", unit=unit)


def tested() -> tuple[Column, ...]:
    """The seeds that a figure is of, and its test: the p-value, and that after Holm's correction."""
    return (
        Column("seeds", "whole", may_be_absent=True),
        *real("p_value", "p_holm", may_be_absent=True),
    )


CELL = text("method", "regime", "seed")
"""The columns that name a cell. In `results` the seed is `all` where a row is averaged over seeds."""

PAIR = text("method", "reference", "regime")
"""The columns that name a paired comparison."""

RESULTS = StudyTable(
    "results",
    "the test errors of a method, regime and seed, for a combination and a stratum of subjects",
    (
        *CELL,
        *text("combination", "stratum"),
        *whole("n", unit="subjects"),
        *real("rmse", "mae", unit=OUTCOME_UNIT),
        *real("r2"),
        *real("lower", "upper", unit=OUTCOME_UNIT),
    ),
    is_required=True,
    is_written_empty=True,
)
COMPARISONS = StudyTable(
    "comparisons",
    "the paired difference in RMSE of a method and its reference, for a combination (or `mean`) and a stratum",
    (
        *PAIR,
        *text("combination", "stratum"),
        *whole("n", unit="subjects"),
        *with_interval("difference"),
        *tested(),
        Column("family", "text", may_be_absent=True),
        *real("effect_size", may_be_absent=True),
    ),
    is_written_empty=True,
)
LADDER = StudyTable(
    "ladder",
    "a model's RMSE minus that of the ladder's top, its lowest clinical reference, for a combination (or `mean`)",
    (
        *text("method", "regime", "combination", "top"),
        *whole("n", unit="subjects"),
        *with_interval("difference"),
        *whole("seeds"),
        *real("p_value", "p_holm"),
        *text("why_not_judged"),
    ),
)
LEARNING = StudyTable(
    "learning",
    "the validation error after a step of training (an epoch or a round), for a combination (or `mean`)",
    (*CELL, *whole("step"), *text("step_kind", "combination"), *real("rmse", unit=OUTCOME_UNIT)),
)
ROUND_PARTS = ("write", "step", "evaluate")
"""What the server spends time on once a round (`stage_seconds` in a line of `rounds.jsonl`)."""
SITE_TIMES = tuple(name for name, figure in FIGURES.items() if figure.unit == "s" and figure.is_logged_by_site)
"""The figures of a site's training that are durations."""
ROUNDS = StudyTable(
    "rounds",
    "what a site moved and worked in a round of a federation; columns about the whole round repeat for every site; the "
    "staleness, in simulated time alone, is missing where the round's step holds no update of the site",
    (
        *CELL,
        *whole("round"),
        *text("site"),
        *whole("bytes_down", "bytes_up", unit="bytes"),
        *real(*SITE_TIMES, unit="s"),
        *real("server_seconds", unit="s", may_be_absent=True),
        *whole("modules"),
        *real("round_seconds", *(f"{part}_seconds" for part in ROUND_PARTS), unit="s", may_be_absent=True),
        *real("staleness", unit="rounds", may_be_absent=True),
    ),
)
PRIVACY = StudyTable(
    "privacy",
    "what a site's patients lost in a federation: ε at most, infinite without differential privacy",
    (*CELL, *text("site"), Column("secure", "flag"), *real("epsilon", "delta")),
)
STUDY_TABLES = (RESULTS, COMPARISONS, LADDER)
"""The tables that studies have whatever their report shows; LADDER only where there is a ladder."""


def rows_of_cells(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The cells' tables as one, led by the columns that name the cell; without columns where there is no table."""
    if not tables:
        return pd.DataFrame()
    joined = pd.concat(tables, ignore_index=True)
    first = [column.name for column in CELL]
    return joined[first + [name for name in joined.columns if name not in first]]
