"""`summary.json`: what a study was, what it found and how to run it again; declared once for writer and reader."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from permmoe.errors import DataError
from permmoe_simulation.studies.study import Outcome, Published

FILE_NAME = "summary.json"
Scale = Literal["linear", "log"]


class MethodSummary(BaseModel):
    """One compared method, as people read it."""

    model_config = ConfigDict(frozen=True)

    kind: str = "federated"
    label: str
    description: str = ""


class Axis(BaseModel):
    """What the regimes' values count, and how that is drawn and fitted."""

    model_config = ConfigDict(frozen=True)

    name: str
    values: dict[str, float]
    scale: Scale = "linear"


class GoalFigures(NamedTuple):
    """A paired difference in RMSE and the ends of its 95% interval, NaN where it is not judged."""

    difference: float
    lower: float
    upper: float


class Goal(BaseModel):
    """A claim written down before the study ran, and what the study says of it in one regime."""

    model_config = ConfigDict(frozen=True)

    claim: str
    method: str = ""
    reference: str = ""
    where: str = ""
    regime: str = ""
    n: int = 0
    seeds: int = 0
    difference: float | None = None
    lower: float | None = None
    upper: float | None = None
    met: bool | None = Field(None, description="None where the study could not decide")
    reversed: bool = Field(False, description="whether the study says the contrary beyond chance")
    why_undecided: str = ""

    @property
    def figures(self) -> GoalFigures:
        """The figures of a goal that has a difference. Raises ValueError for another."""
        if self.difference is None:
            raise ValueError(f"the study has no difference for: {self.claim}")
        lower, upper = (nan if end is None else end for end in (self.lower, self.upper))
        return GoalFigures(self.difference, lower, upper)


class Summary(BaseModel):
    """Everything that the report needs beside the tables. Fields that older studies did not write have defaults."""

    model_config = ConfigDict(frozen=True)

    study: str
    synthetic: bool
    source: Literal["", "synthetic", "manifest", "public"] = Field("", description="empty: an older study")
    data: str = ""
    outcome: Outcome = Outcome()
    axis: Axis | None = None
    published: tuple[Published, ...] = ()
    methods: dict[str, MethodSummary]
    modalities: tuple[str, ...] = Field(min_length=1)
    findings: tuple[str, ...] = ()
    goals: tuple[Goal, ...] = ()
    ladder: tuple[str, ...] = Field(
        (), description="in words, first of all models and then of each, whether it beats the clinical references"
    )
    configuration: str = ""
    versions: dict[str, str] = {}
    machine: str = ""
    digests: dict[str, str] = {}
    seeds: tuple[int, ...] = ()
    failed_cells: tuple[str | dict[str, Any], ...] = ()
    quarantine: dict[str, int] = {}
    left_out_sites: int = 0
    left_out: tuple[str, ...] = ()
    command: str = ""
    seconds: float | None = None
    peak_memory_mb: int | float | None = None
    date: str = ""

    @property
    def data_label(self) -> str:
        """What the figures are of, in two words or a few more."""
        if self.synthetic:
            return "synthetic data"
        return "public data" if self.source == "public" else "data of the manifest"

    def write(self, folder: Path) -> None:
        """Write the file into a study's folder."""
        (folder / FILE_NAME).write_text(json.dumps(self.model_dump(mode="json"), indent=1))

    @staticmethod
    def read(folder: Path) -> Summary:
        """The summary of a finished study. Raises DataError for a file that cannot be understood."""
        path = folder / FILE_NAME
        try:
            return Summary.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, ValidationError) as error:
            raise DataError(f"{path} cannot be read as a study's summary: {error}. Run the study again") from error


def axis_scale(values: Sequence[float]) -> Scale:
    """How an axis is drawn and fitted: logarithmic where its values span more than a factor of twenty."""
    return "log" if min(values) > 0 and max(values) / min(values) > 20 else "linear"
