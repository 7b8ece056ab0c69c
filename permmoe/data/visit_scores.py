"""The score whose change is the outcome, where tables have a row a visit and not, as a manifest, a row a patient.

ADNI's tables hold the scores of permmoe.data.registries.scores in columns that are known. Any other score stands in a
column that is named: `TABLE.COLUMN`, as `MOCA.TOTAL` of a table MOCA.csv with RID or PTID and the visit's code or day,
or a column of ADNIMERGE, as `MOCA`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from permmoe.config import CDR_SB, Score
from permmoe.data.adni_sources import SCORE_COLUMNS, TABLES, AdniTable, Origin, origins_of
from permmoe.data.outcome_columns import USUAL_COLUMNS, OutcomeColumns
from permmoe.data.registries.scores import SCORES
from permmoe.errors import ConfigurationError, nearest


@dataclass(frozen=True)
class VisitScore:
    """A score, and where tables hold it at each visit."""

    score: Score
    """Its scale is in the model's unit."""
    column: str = ""
    """Its column, as the module's header says; empty: it is the CDR-SB of the clinical visits themselves."""
    columns: OutcomeColumns = USUAL_COLUMNS
    """The tables' unit, and what makes it the model's."""

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Where its column may come from, best first. Raises DataError for a table that cannot be."""
        table, _, column = self.column.partition(".")
        if column and table not in TABLES:
            return (Origin(_own_table(table), column),)
        return origins_of(self.column) if self.column else ()


CDR_SB_AT_VISITS = VisitScore(CDR_SB)


def score_named(name: str) -> VisitScore:
    """A score by its name on the command line, as `adas-cog-13`. Raises ConfigurationError for one that is not read."""
    if name not in SCORE_COLUMNS:
        raise ConfigurationError(f"ADNI has no score {name!r}; {nearest(name, SCORE_COLUMNS)}")
    return VisitScore(SCORES[name], SCORE_COLUMNS[name])


def score_of_tables(columns: OutcomeColumns, column: str, score: Score) -> VisitScore:
    """The model's score where `column` holds it, or, without one, where ADNI's tables do.

    `columns` says of which score and in which unit the tables' numbers are. Raises DataError where that is not the
    model's, or is not converted, and ConfigurationError as `require_column`.
    """
    columns.require(score)
    require_column(columns, column)
    return VisitScore(score, column or SCORE_COLUMNS[_key_of(columns.name)], columns)


def require_column(columns: OutcomeColumns, column: str) -> None:
    """Raise ConfigurationError where nothing tells which column holds a score, or where it cannot be in that unit."""
    if column:
        return
    known = {SCORES[name].name: SCORES[name].unit for name in SCORE_COLUMNS}
    key = _key_of(columns.name)
    if not key:
        raise ConfigurationError(
            f"ADNI's tables have no column that is known to hold {columns.name} ({', '.join(known)} are known): name "
            "it in 'folders.score', as MOCA.TOTAL for the column TOTAL of a table MOCA.csv with a row a visit"
        )
    if columns.unit.casefold() != SCORES[key].unit.casefold():
        raise ConfigurationError(
            f"ADNI's tables hold {SCORES[key].name} in {SCORES[key].unit}, and 'outcome.unit' says {columns.unit}: "
            "mend the unit, or name in 'folders.score' the column that has it in this unit"
        )


def _key_of(name: str) -> str:
    """The command line's name of a score that ADNI's tables are known to hold; empty for any other."""
    return next((key for key in SCORE_COLUMNS if SCORES[key].name.casefold() == name.casefold()), "")


def _own_table(name: str) -> AdniTable:
    # It has none of ADNI's codes for missing values: −1 and −4 are numbers, on the scale or off it.
    return AdniTable(name, "a hospital's own table", "visit", (re.escape(name),), signed=("",))
