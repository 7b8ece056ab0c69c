"""ADNI's table of diagnoses (DXSUM), and how long a diagnosis that it made holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from permmoe.data.adni_rows import AdniRows
from permmoe.data.diagnoses import CODES, coded_diagnosis
from permmoe.data.target_rule import Assessment, with_last_known
from permmoe.errors import DataError, nearest


@dataclass(frozen=True)
class Diagnosed:
    """A diagnosis of DXSUM."""

    rid: int
    code: str
    taken: date | None
    diagnosis: str


def read_diagnoses(read: AdniRows, days: Mapping[tuple[int, str], date]) -> list[Diagnosed]:
    """DXSUM's diagnoses."""
    table = read.table
    known = [name for name in CODES if table.has(name)]
    if not known:
        raise DataError(f"{table.path} lacks a diagnosis: {' or '.join(CODES)}; {nearest('DIAGNOSIS', table.header)}")
    found = []
    for row in read.rows:
        diagnosis = next((dx for name in known if (dx := coded_diagnosis(row.cells.get(name, ""), CODES[name]))), "")
        if diagnosis:
            found.append(Diagnosed(row.rid, row.code, row.taken or days.get((row.rid, row.code)), diagnosis))
    return found


def with_last_diagnosis(
    assessments: Mapping[int, Sequence[Assessment]], diagnosed: Iterable[Diagnosed]
) -> dict[int, list[Assessment]]:
    """Visits without a diagnosis are given the last one of DXSUM's or of the visits before them, by RID."""
    made: defaultdict[int, list[tuple[date, str]]] = defaultdict(list)
    for event in diagnosed:
        if event.taken is not None:
            made[event.rid].append((event.taken, event.diagnosis))
    return {rid: with_last_known(visits, made[rid]) for rid, visits in assessments.items()}
