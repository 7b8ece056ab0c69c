"""Earlier visits of the same subject: numbers in columns, as of a table, that no single visit was measured for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from permmoe.data.kinds.kind import Reading, RowPlace
from permmoe.data.kinds.tabular import TabularKind
from permmoe.data.reasons import Reason
from permmoe.modality import Modality

YEARS_BEFORE = "years_before"
"""The column that says how long before the visit the earlier ones began."""


@dataclass(frozen=True)
class HistoryKind(TabularKind):
    """As tabular in a manifest; out of a registry's tables permmoe.data.history makes it of a subject's visits."""

    is_of_earlier_visits: bool = True

    def read_cells(self, modality: Modality, row: Mapping[str, str], place: RowPlace) -> Reading:
        """As of a table; a history that does not begin before the visit is left out."""
        reading = super().read_cells(modality, row, place)
        if reading.numbers is None or YEARS_BEFORE not in modality.columns:
            return reading
        years = reading.numbers[modality.columns.index(YEARS_BEFORE)]
        return reading if years > 0 else Reading(left_out=Reason.NOT_BEFORE)

    def adni_columns(self, modality: Modality) -> tuple[str, ...]:
        """None: they are made of several visits."""
        return ()

    def adni_numbers(self, modality: Modality, values: Mapping[str, float]) -> tuple[float, ...] | None:
        """None, so that no visit is chosen for the earlier ones that it has."""
        return None

    def in_words(self, modalities: Sequence[Modality]) -> str:
        """Which columns are read, and of which visits they are."""
        tables = "; ".join(f"{modality.name} ({', '.join(modality.columns)})" for modality in modalities)
        return f"Numbers made of visits before the one that is predicted from: {tables}."
