"""Which columns of a table of visits hold the outcome, of which score and in which unit.

One mapping for every reader of such a table: `outcome` in a hospital's site.yaml and in a study of the simulation,
`--outcome FILE` of `permmoe train`, `evaluate`, `predict` and `permmoe data inspect`. It is held against the score that
the model predicts the change of (`model.score`): a table of another score, or in a unit that nobody converts, is
refused. Where tables have a row a visit, as in a hospital's `folders`, it says score and unit, and
permmoe.data.visit_scores finds the column.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from permmoe.config import CDR_SB, Configuration, Score, read_config
from permmoe.errors import DataError

CDRSB_COLUMNS = ("baseline_cdrsb", "delta_cdrsb")


class OutcomeColumns(Configuration):
    """Where a table holds a score at the visit and its change or its value at the horizon. By default CDR-SB's."""

    name: str = Field(CDR_SB.name, description="the score, called as in the study's model.score")
    unit: str = Field(CDR_SB.unit, description="what the table's numbers are in")
    baseline: str = Field(CDRSB_COLUMNS[0], description="column of the score at the visit")
    change: str = Field("", description="column of the score at the horizon minus the score at the visit")
    follow_up: str = Field("", description="in place of 'change': column of the score at the horizon")
    times: float | None = Field(
        None, gt=0, description="where the study has another unit: what the table's numbers are multiplied by"
    )

    @model_validator(mode="after")
    def _says_where_the_outcome_stands(self) -> OutcomeColumns:
        if self.change and self.follow_up:
            raise ValueError("give either 'change' or 'follow_up'")
        if not self.change and not self.follow_up and self.baseline != CDRSB_COLUMNS[0]:
            raise ValueError("give 'change', the column of the change, or 'follow_up', the score at the horizon")
        return self

    @classmethod
    def of(cls, score: Score) -> OutcomeColumns:
        """The usual columns, holding this score in its unit."""
        return cls(name=score.name, unit=score.unit)

    @property
    def later(self) -> str:
        """The column that tells the outcome."""
        return self.follow_up or self.change or CDRSB_COLUMNS[1]

    def require(self, score: Score) -> None:
        """Raise DataError, in a sentence that names no subject, where a table of these columns is not of the score."""
        if trouble := self.mismatch(score):
            raise DataError(trouble, for_log=trouble)

    def mismatch(self, score: Score) -> str:
        """Why a table of these columns does not hold what is predicted, and what to do; empty where it does."""
        if self.name.casefold() != score.name.casefold():
            return (
                f"the table holds {self.name}, and the model predicts the change in {score.name}: say where it holds "
                f"{score.name} ('outcome' in site.yaml, --outcome of a command), or use another table"
            )
        if self.unit.casefold() != score.unit.casefold() and self.times is None:
            return (
                f"the table holds {self.name} in {self.unit}, and the model predicts it in {score.unit}: say in "
                "'outcome.times' what the table's numbers are multiplied by"
            )
        if self.unit.casefold() == score.unit.casefold() and self.times is not None:
            return f"'outcome.times' is set, but table and model both have {self.name} in {score.unit}: leave it out"
        return ""

    def in_words(self) -> str:
        """Which columns make the outcome, as a hospital reads it."""
        columns = f"{self.follow_up} − {self.baseline}" if self.follow_up else self.later
        return f"{columns}, the change in {self.score_in_words}"

    @property
    def score_in_words(self) -> str:
        """The score with its unit, and what its numbers are multiplied by."""
        converted = "" if self.times is None else f", multiplied by {self.times:g}"
        return f"{self.name} in {self.unit}{converted}"

    def in_unit(self, number: float) -> float:
        """A number of the table in the study's unit."""
        return number if self.times is None else number * self.times


USUAL_COLUMNS = OutcomeColumns()
"""CDR-SB in `baseline_cdrsb` and `delta_cdrsb`, points."""


def read_outcome(path: Path | None) -> OutcomeColumns:
    """The mapping of a YAML file; the usual columns without one. Raises ConfigurationError."""
    return read_config(path, OutcomeColumns) if path else USUAL_COLUMNS


OUTCOME_HELP = "YAML that says which columns hold the outcome (name, unit, baseline, change or follow_up)."
"""What `--outcome` is, wherever a command reads a manifest."""
