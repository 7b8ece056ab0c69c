"""Read a finished study's folder into values; the report's only input, and checked here once."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from permmoe.errors import DataError

# A method may be called `null`, a site `007`: never let the reader guess a type.
TEXT_COLUMNS = ("method", "reference", "regime", "seed", "combination", "stratum", "step_kind", "site", "modality")
COLUMNS = {
    "results": "method regime seed combination stratum n rmse mae r2 lower upper",
    "comparisons": "method reference regime combination stratum n difference lower upper",
    "rounds": "method regime seed round site bytes_down bytes_up train_seconds overhead_seconds modules",
    "privacy": "method regime seed site secure epsilon delta",
    "learning": "method regime seed step step_kind combination rmse",
    "activation": "method regime seed combination modality expert share",
    "routing": "method regime seed load_cv collapsed_experts",
    "sites": "site train validation test",
    "site_results": "method regime site n rmse",
    "gaps": "method regime combination n share lower upper",
    "percent_changes": "method reference regime stratum combination n percent lower upper",
    "wins": "method reference regime stratum combinations wins lower upper",
    "drift": "method regime combination n difference lower upper",
    "along_axis": "method regime value combination n rmse lower upper",
    "trends": "method reference combination n slope lower upper",
    "costs": "method regime seed seconds",
}


class Method(BaseModel):
    """One compared method, as people read it."""

    model_config = ConfigDict(frozen=True)

    label: str
    description: str = ""
    kind: Literal["federated", "local", "centralised", "unimodal", "reference"] = "federated"


class Outcome(BaseModel):
    """What was predicted."""

    model_config = ConfigDict(frozen=True)

    name: str = "change in CDR-SB"
    unit: str = "CDR-SB points"


class Axis(BaseModel):
    """What the regimes' values count, and how that is drawn and fitted."""

    model_config = ConfigDict(frozen=True)

    name: str
    values: dict[str, float]
    scale: Literal["linear", "log"] = "linear"


class Published(BaseModel):
    """What a publication says of a pair; percentages are changes of RMSE, below zero where the method is better."""

    model_config = ConfigDict(frozen=True)

    source: str
    method: str
    reference: str
    wins: str = ""
    percent: dict[str, float] = {}
    percent_by_stratum: dict[str, float] = {}
    reference_better: tuple[str, ...] = ()


class Goal(BaseModel):
    """A claim written down before the study ran, and what the study says of it."""

    model_config = ConfigDict(frozen=True)

    claim: str
    regime: str = ""
    difference: float | None = None
    lower: float | None = None
    upper: float | None = None
    met: bool | None = Field(None, description="None where the study could not decide")


class Summary(BaseModel):
    """`summary.json`: what the study was, what it found and how to run it again."""

    model_config = ConfigDict(frozen=True)

    study: str
    synthetic: bool
    source: Literal["", "synthetic", "manifest", "public"] = Field("", description="empty: written before it was told")
    outcome: Outcome = Outcome()
    axis: Axis | None = None
    published: tuple[Published, ...] = ()
    methods: dict[str, Method]
    modalities: tuple[str, ...] = Field(min_length=1)
    data: str = ""
    findings: tuple[str, ...] = ()
    goals: tuple[Goal, ...] = ()
    configuration: str = ""
    command: str = ""
    versions: dict[str, str] = {}
    machine: str = ""
    digests: dict[str, str] = {}
    seeds: tuple[int, ...] = ()
    seconds: float | None = None
    peak_memory_mb: float | None = None
    date: str = ""
    failed_cells: tuple[str | dict[str, Any], ...] = ()
    quarantine: dict[str, int] = {}
    left_out_sites: int = 0

    @property
    def data_label(self) -> str:
        """What the figures are of, in two words or a few more."""
        if self.synthetic:
            return "synthetic data"
        return "public data" if self.source == "public" else "data of the manifest"


@dataclass(frozen=True)
class Study:
    """All that a report shows. A table that the study did not write is None."""

    summary: Summary
    results: pd.DataFrame
    comparisons: pd.DataFrame | None
    rounds: pd.DataFrame | None
    privacy: pd.DataFrame | None
    learning: pd.DataFrame | None
    activation: pd.DataFrame | None
    routing: pd.DataFrame | None
    sites: pd.DataFrame | None
    site_results: pd.DataFrame | None
    gaps: pd.DataFrame | None
    percent_changes: pd.DataFrame | None
    wins: pd.DataFrame | None
    drift: pd.DataFrame | None
    along_axis: pd.DataFrame | None
    trends: pd.DataFrame | None
    costs: pd.DataFrame | None
    slices: Mapping[str, Float[np.ndarray, "first second"]] | None


def read_study(folder: Path) -> Study:
    """Raises DataError where `summary.json` or `results.csv` is missing, or where any file cannot be understood."""
    for name in ("summary.json", "results.csv"):
        if not (folder / name).is_file():
            raise DataError(
                f"{folder} holds no {name}, so it is not the folder of a finished study; run the study first"
            )
    tables = {name: _read_table(folder / f"{name}.csv") for name in COLUMNS}
    results = tables.pop("results")
    if results is None:
        raise DataError(f"{folder / 'results.csv'} holds no results; run the study again")
    return Study(_read_summary(folder / "summary.json"), results, slices=_read_slices(folder / "slices.npz"), **tables)


def _read_summary(path: Path) -> Summary:
    try:
        return Summary.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise DataError(f"{path} cannot be read as a study's summary: {error}. Run the study again") from error


def _read_table(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    text = dict.fromkeys(TEXT_COLUMNS, str)
    try:
        table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=["", "nan", "NaN"])
    except pd.errors.EmptyDataError:
        return None  # how pandas writes a table without rows
    except (ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}. Run the study again") from error
    absent = [column for column in COLUMNS[path.stem].split() if column not in table.columns]
    if absent:
        raise DataError(f"{path} lacks the columns {', '.join(absent)}; it was written by another version of the study")
    return table


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
