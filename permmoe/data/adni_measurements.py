"""Numbers of ADNI's tables at a clinical visit: which row of a table belongs to it.

- A row of a visit belongs to the visit of its RID and code (VISCODE2); where none has that code, to the nearest in
  time, within `TargetRule.table_window_days`.
- A row of a scan belongs to the nearest visit in time, within `TargetRule.image_window_days`. Of the rows of one day
  the one of the best quality counts, then the one that was made last. Rows that failed quality control, and regions
  that did, are not used.
- A row of a person belongs to all visits: the first that has the number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path

from permmoe.data.adni_codes import names_one_visit
from permmoe.data.adni_files import find_spreadsheet, find_table
from permmoe.data.adni_rows import AdniRow, adni_rows
from permmoe.data.adni_sources import AGE, WORDS, AdniTable, Origin
from permmoe.data.cells import NumberReader
from permmoe.data.history import SCORE
from permmoe.data.kinds import kind_of
from permmoe.data.quarantine import Quarantined
from permmoe.data.table_files import TableFile, column_key, read_table
from permmoe.data.target_rule import Assessment, Dated, NumberSource, TargetRule
from permmoe.data.tracer_rule import is_read
from permmoe.data.visit_scores import VisitScore
from permmoe.errors import DataError, nearest
from permmoe.modality import Modality
from permmoe.tracers import canonical_tracer

MISSING_CODES = (-4.0, -1.0)
"""Written where nothing was measured, in columns that cannot be negative; −1 in ADNI1."""


@dataclass(frozen=True)
class MeasuredRow:
    """What a row of a table says in numbers."""

    code: str
    taken: date | None
    values: Mapping[str, float]
    """By the table's column; no entry where nothing was measured or a region failed quality control."""
    preference: tuple[int, ...] = ()
    """Of two rows as near, the one with the smaller preference counts."""
    tracer: str = ""
    """By its canonical name, or as the table has it; empty where it tells none."""


@dataclass(frozen=True)
class _Number:
    """A number that a visit has of a column."""

    value: float
    source: NumberSource
    day: date
    """Its row's; the visit's, where the row has none."""


@dataclass(frozen=True)
class MeasuredTable:
    """A table that was read for its numbers."""

    table: AdniTable
    file: str
    rows: Mapping[int, Sequence[MeasuredRow]]
    """By roster number."""


@dataclass(frozen=True)
class Measurements:
    """The tables that a model's columns come from."""

    origins: Mapping[str, tuple[Origin, ...]] = field(default_factory=dict)
    """By column of the manifest, best first, those alone whose table and column are there."""
    tables: Mapping[str, MeasuredTable] = field(default_factory=dict)
    rows: tuple[AdniRow, ...] = ()
    """Every row that was read, for whose it is."""
    left_out: tuple[Quarantined, ...] = ()
    notes: tuple[str, ...] = ()

    def is_of_scans(self, columns: Iterable[str]) -> bool:
        """Whether one of these columns comes from a table of scans, which is there."""
        return any(origin.table.per == "scan" for column in columns for origin in self.origins.get(column, ()))


def read_measurements(folder: Path, wanted: Mapping[str, tuple[Origin, ...]], last_day: date | None) -> Measurements:
    """Read the tables that columns of a manifest come from: each column's origins, best first.

    A table that is not there was not collected: a note says so, and no visit has its columns. Raises DataError for one
    that lacks the column, for one that cannot be read, and for a spreadsheet in its place.
    """
    paths: dict[str, Path | None] = {}
    for origin in (origin for origins in wanted.values() for origin in origins):
        if origin.table.name not in paths:
            found = (find_table(folder, name) for name in origin.table.files)
            paths[origin.table.name] = next((path for path in found if path is not None), None)
    files = {name: read_table(path) for name, path in paths.items() if path is not None}
    origins = {
        column: tuple(origin for origin in of if origin.table.name in files and _has(files[origin.table.name], origin))
        for column, of in wanted.items()
    }
    absent = {column: of for column, of in wanted.items() if of and not origins[column]}
    for column, of in absent.items():
        _require_readable(column, of, files, folder)
    rows: list[AdniRow] = []
    left_out: list[Quarantined] = []
    notes = [_not_there(column, of) for column, of in absent.items()]
    tables: dict[str, MeasuredTable] = {}
    for name, file in files.items():
        own = dict.fromkeys(o.column for of in origins.values() for o in of if o.table.name == name)
        if not own:
            continue
        table = next(o.table for of in origins.values() for o in of if o.table.name == name)
        read = adni_rows(file, table.dates, last_day)
        rows += read.rows
        left_out += read.left_out
        tables[name] = _measured(table, file, read.rows, tuple(own), notes)
        notes += _older_files(folder, table, file)
    return Measurements(origins, tables, tuple(rows), tuple(left_out), tuple(notes))


def measured_at(
    assessment: Assessment,
    rid: int,
    measurements: Measurements,
    rule: TargetRule,
    modalities: Sequence[Modality],
    covariates: Sequence[str] = (),
    followed: Sequence[str] = (),
) -> Assessment:
    """The visit with the numbers of the tabular modalities that it has every column of, and what gave each; and with
    those of `covariates` and `followed` that it has, column by column."""
    found: dict[str, _Number] = {}
    for modality in modalities:
        columns = kind_of(modality).adni_columns(modality)
        numbers = _numbers_at(assessment, rid, columns, measurements, rule, modality)
        if all(column in numbers for column in columns):
            found |= {column: number for column, number in numbers.items() if column not in found}

    def single(columns: Sequence[str]) -> dict[str, _Number]:
        each = [_numbers_at(assessment, rid, (column,), measurements, rule) for column in columns]
        return {column: number for own in each for column, number in own.items()}

    return replace(
        assessment,
        values={column: number.value for column, number in found.items()},
        given_by={column: number.source for column, number in found.items()},
        covariates={column: number.value for column, number in single(covariates).items()},
        followed={column: Dated(number.day, number.value) for column, number in single(followed).items()}
        | dict(assessment.followed),
    )


def scored_at(
    assessment: Assessment, rid: int, score: VisitScore, measurements: Measurements, rule: TargetRule
) -> Assessment:
    """The visit with this score, in the model's unit, in place of CDR-SB; None where there is none."""
    number, day = assessment.cdrsb, assessment.taken
    if score.column:
        found = _numbers_at(assessment, rid, (score.column,), measurements, rule).get(score.column)
        number, day = (None, day) if found is None else (found.value, found.day)
    if number is None:
        return replace(assessment, cdrsb=None)
    rated = score.columns.in_unit(number)
    return replace(assessment, cdrsb=rated, followed={SCORE: Dated(day, rated)})


def _numbers_at(
    assessment: Assessment,
    rid: int,
    columns: Sequence[str],
    measurements: Measurements,
    rule: TargetRule,
    modality: Modality | None = None,
) -> dict[str, _Number]:
    """Each column's number. Scans of tracers that the modality does not read give none."""
    found: dict[str, _Number] = {}
    if AGE in columns and assessment.age_years is not None:
        found[AGE] = _Number(round(assessment.age_years, 2), assessment.given_by[AGE], assessment.taken)
    for names in _from_one_row(columns, measurements.origins).values():
        for rank in range(max(len(measurements.origins[name]) for name in names)):
            wanted = {
                name: measurements.origins[name][rank]
                for name in names
                if name not in found and rank < len(measurements.origins[name])
            }
            if wanted:
                found |= _of_row(assessment, rid, wanted, measurements, rule, modality)
    return found


def _from_one_row(columns: Sequence[str], origins: Mapping[str, Sequence[Origin]]) -> dict[str, list[str]]:
    """Columns that have to come from one row: those of one scan's table; any other by itself."""
    groups: dict[str, list[str]] = defaultdict(list)
    for column in columns:
        if column != AGE and origins[column]:
            first = origins[column][0]
            groups[first.table.name if first.table.per == "scan" else column].append(column)
    return groups


def _of_row(
    assessment: Assessment,
    rid: int,
    wanted: Mapping[str, Origin],
    measurements: Measurements,
    rule: TargetRule,
    modality: Modality | None,
) -> dict[str, _Number]:
    table = measurements.tables[next(iter(wanted.values())).table.name]
    sources = {name: column_key(origin.column) for name, origin in wanted.items()}
    rows = [row for row in table.rows.get(rid, ()) if all(source in row.values for source in sources.values())]
    if modality is not None:
        rows = [row for row in rows if is_read(modality, row.tracer)]
    row = _row_of(assessment, rows, table.table, rule)
    if row is None:
        return {}
    found = {}
    for name, source in sources.items():
        tracer = row.tracer if source.endswith("_SUVR") else ""
        origin = NumberSource(table.file, wanted[name].column, tracer)
        found[name] = _Number(row.values[source], origin, row.taken or assessment.taken)
    return found


def _row_of(
    assessment: Assessment, rows: Sequence[MeasuredRow], table: AdniTable, rule: TargetRule
) -> MeasuredRow | None:
    """The row that belongs to a visit, by the rules of the module's header."""
    if table.per == "person":
        return rows[0] if rows else None
    if table.per == "visit" and names_one_visit(assessment.code):
        same = [row for row in rows if row.code == assessment.code]
        if same:
            return min(same, key=lambda row: _distance(row, assessment))
    days = rule.table_window_days if table.per == "visit" else rule.image_window_days
    near = [row for row in rows if row.taken is not None and _distance(row, assessment) <= timedelta(days=days)]
    return min(near, key=lambda row: (_distance(row, assessment), row.taken, row.preference), default=None)


def _distance(row: MeasuredRow, assessment: Assessment) -> timedelta:
    return timedelta.max if row.taken is None else abs(row.taken - assessment.taken)


def _measured(
    table: AdniTable, file: TableFile, rows: Iterable[AdniRow], columns: Sequence[str], notes: list[str]
) -> MeasuredTable:
    readers = {column_key(column): _reader(table, file, column) for column in columns}
    made = [(column_key(name), file.dates(name)) for name in table.made if file.has(name)]
    quality = table.quality
    if quality is not None and not file.has(quality.column):
        notes.append(f"{file.path.name} has no {quality.column}: its rows are used whatever their quality")
        quality = None
    found: dict[int, list[MeasuredRow]] = defaultdict(list)
    n_failed = 0
    for number, row in enumerate(rows):
        rank = 0 if quality is None else quality.rank(row.cells)
        if rank is None:
            n_failed += 1
            continue
        days = [day.toordinal() if (day := read(row.cells.get(key, ""))) else 0 for key, read in made]
        values = {
            key: value
            for key, read in readers.items()
            if (value := read(row)) is not None and not (quality and quality.is_failed(row.cells, key))
        }
        newest_first = (rank, *(-day for day in days), -number)
        label = row.cells.get(table.tracer, "") if table.tracer else ""
        tracer = canonical_tracer(label) or label
        found[row.rid].append(MeasuredRow(row.code, row.taken, values, newest_first, tracer))
    if n_failed:
        assert quality is not None
        notes.append(f"{file.path.name}: {n_failed} row(s) did not pass quality control ({quality.column})")
    return MeasuredTable(table, file.path.name, found)


def _reader(table: AdniTable, file: TableFile, column: str) -> Callable[[AdniRow], float | None]:
    """What reads a row's number of a column; it gives None where nothing was measured."""
    if column in table.derived:
        derive = table.derived[column]
        return lambda row: derive(row.cells)
    name = column if file.has(column) else table.older_names[column]
    key, read, is_signed = column_key(name), file.numbers(name), table.may_be_negative(column)
    return lambda row: _number(row.cells.get(key, ""), read, is_signed)


def _number(text: str, read: NumberReader, is_signed: bool) -> float | None:
    number = WORDS.get(text.upper(), read(text))
    if number is None or number != number or (not is_signed and number in MISSING_CODES):
        return None
    return number


def _has(file: TableFile, origin: Origin) -> bool:
    older = origin.table.older_names.get(origin.column)
    return origin.column in origin.table.derived or file.has(origin.column) or (older is not None and file.has(older))


def _require_readable(column: str, origins: Sequence[Origin], files: Mapping[str, TableFile], folder: Path) -> None:
    """Raise DataError where a table is there that should give a column, but cannot."""
    for origin in origins:
        if file := files.get(origin.table.name):
            raise DataError(
                f"column {column!r} of the model: {file.path} lacks {origin.column}; "
                f"{nearest(origin.column, file.header)}",
                for_log=f"the table {origin.table.name} lacks the column {origin.column}",
            )
    for name in (name for origin in origins for name in origin.table.files):
        if spreadsheet := find_spreadsheet(folder, name):
            raise DataError(
                f"column {column!r} of the model: {spreadsheet} is a spreadsheet; save it as comma-separated text "
                "(CSV)",
                for_log=f"the table of the column {column} is a spreadsheet",
            )


def _not_there(column: str, origins: Sequence[Origin]) -> str:
    names = " or ".join(dict.fromkeys(origin.table.name for origin in origins))
    return f"no visit has {column}: it comes from {names}, which is not in the folder of tables"


def _older_files(folder: Path, table: AdniTable, file: TableFile) -> list[str]:
    """A note where tables of several versions are there, whose numbers cannot be compared."""
    others = [path.name for name in table.files if (path := find_table(folder, name)) and path != file.path]
    return [f"{table.name} is read from {file.path.name}; {', '.join(others)} left aside"] if others else []
