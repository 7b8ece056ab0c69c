"""A section of the report in one place: the tables that it alone needs, how they are computed, and how it shows them.

To add a section, write a file like report/drift.py and name its `ReportSection` in SECTIONS (report/page.py). When a
study is finished, `tables` is computed and written to the study's folder; `show` sees nothing but what was read back
from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from permmoe_simulation.report.content import Section
from permmoe_simulation.report.view import View
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.study_tables import STUDY_TABLES, StudyTable


@dataclass(frozen=True)
class ReportSection:
    """What is registered about a section."""

    show: Callable[[View], Section | None]
    """The section; None where the study has nothing for it."""
    tables: Mapping[StudyTable, Callable[[FinishedStudy], pd.DataFrame]] = field(default_factory=dict)
    """The rows of each table of its own; a table without rows is not written. `View.table` reads it back."""


def tables_of(sections: Iterable[ReportSection]) -> list[StudyTable]:
    """Every table of a study that is reported with these sections."""
    return [*STUDY_TABLES, *(table for section in sections for table in section.tables)]
