"""The ladder of clinical references: what is known of a patient without an image, from nothing to everything.

A study names it once, as `ladder: {}`, and has its rungs as methods: the training mean; baseline and age; all clinical
columns by ridge; all clinical columns by gradient boosting. A model that reads images has shown that its images are
worth something where it is better than every rung. Better than every one of several needs no correction for their
number: each comparison has to hold by itself (intersection-union test; Berger 1982, Technometrics 24:295).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from permmoe.config import Configuration
from permmoe.data.visits import Visit

CLINICAL_COLUMNS = ("age_years", "PTGENDER", "PTEDUCAT", "APOE4", "MMSE", "ADAS13", "FAQ")
"""Age, sex, education, APOE ε4 alleles, MMSE, ADAS-Cog 13 and FAQ, as ADNI calls them (permmoe.data.adni_sources)."""

RUNGS: Mapping[str, Mapping[str, str]] = {
    "training-mean": {
        "baseline": "training_mean",
        "label": "training mean",
        "description": "the same outcome for everybody",
    },
    "clinical-null": {
        "baseline": "clinical_null",
        "label": "clinical null",
        "description": "ridge on the score at the visit and age",
    },
    "clinical-ridge": {
        "baseline": "clinical_ridge",
        "label": "clinical ridge",
        "description": "ridge on the score at the visit, age and all clinical columns",
    },
    "clinical-boosting": {
        "baseline": "clinical_boosting",
        "label": "clinical boosting",
        "description": "gradient-boosted trees on the score at the visit, age and all clinical columns",
    },
}
"""From the lowest up, as methods of kind reference."""


class Ladder(Configuration):
    """The clinical references that a study has beside its methods."""

    columns: tuple[str, ...] = Field(
        CLINICAL_COLUMNS,
        min_length=1,
        description="what is read of each visit for them, as far as it was measured; no model sees them",
    )


def with_rungs(methods: Mapping[str, Any]) -> dict[str, Any]:
    """A study's methods and the rungs that it does not declare itself. Raises ValueError for another method of a
    rung's name."""
    for name, rung in RUNGS.items():
        own = methods.get(name)
        baseline = own.get("baseline") if isinstance(own, Mapping) else getattr(own, "baseline", None)
        if own is not None and baseline != rung["baseline"]:
            raise ValueError(f"method {name!r} is a rung of the ladder, baseline {rung['baseline']}; rename yours")
    return {**methods, **{name: {"kind": "reference", **rung} for name, rung in RUNGS.items() if name not in methods}}


@dataclass(frozen=True)
class ColumnFacts:
    """What a study's visits have of a clinical column."""

    column: str
    measured: int
    """Visits."""
    visits: int
    is_constant: bool

    @property
    def left_out(self) -> str:
        """Why the rungs learn nothing from it; empty where they may."""
        if not self.measured:
            return "no visit has it"
        return "it is the same in every visit" if self.is_constant else ""


def column_facts(ladder: Ladder, visits: Iterable[Visit]) -> list[ColumnFacts]:
    """Of each column of the ladder, how many visits have it and whether it says anything at all."""
    listed = list(visits)
    facts = []
    for column in ladder.columns:
        numbers = [visit.covariates[column] for visit in listed if column in visit.covariates]
        facts.append(ColumnFacts(column, len(numbers), len(listed), len(set(numbers)) == 1))
    return facts
