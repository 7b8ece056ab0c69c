"""The manifest: one CSV row an index visit, the one table in which every layout of images and scores ends.

Columns, in any order; others are ignored:

| column | meaning |
|---|---|
| subject_id, site, session | text, kept as written (`011` keeps its zero) |
| baseline_cdrsb | CDR-SB at the visit, points, 0 to 18 |
| delta_cdrsb | CDR-SB at the horizon − CDR-SB at the visit, points; needed for training and evaluation only |
| in their place, those that permmoe.data.outcome_columns names | the same of another score, or under other names |
| horizon_months | months from the visit to the outcome; the same in every row |
| one a volume modality, named like it | the image's path, empty = not collected |
| the columns of each tabular modality | numbers, all empty (or a declared missing code) = not collected |
| age_years, phase, split | optional; split is train, validation or test |
| a modality's name with `_tracer` | optional; its PET tracer, where the image does not tell it |

A relative path starts at the manifest's folder and may not leave it with `..`; write an absolute path for an image
that lies elsewhere.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from permmoe.config import CDR_SB, Score
from permmoe.data.cells import parse_number
from permmoe.data.kinds import by_kind, kind_of
from permmoe.data.kinds.kind import RowPlace
from permmoe.data.kinds.volume import absolute
from permmoe.data.outcome_columns import USUAL_COLUMNS, OutcomeColumns
from permmoe.data.quarantine import Quarantine, Quarantined, write_csv_atomically
from permmoe.data.reasons import Reason
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import DataError, nearest
from permmoe.modality import Modality
from permmoe.tracers import canonical_tracer

CDRSB_POINTS = (0.0, 18.0)
IDENTITY = ("subject_id", "site", "session")
OPTIONAL = ("age_years", "phase", "split")
SPLITS = ("", "train", "validation", "test")


def read_manifest(
    path: Path,
    modalities: Sequence[Modality],
    *,
    need_target: bool = True,
    score: Score = CDR_SB,
    columns: OutcomeColumns = USUAL_COLUMNS,
    covariates: Sequence[str] = (),
) -> tuple[VisitTable, Quarantine]:
    """Read the visits of a manifest, and itemise what cannot be used.

    `score` is what the model predicts the change of, and `columns` where and in which unit the manifest holds it; the
    visits have it in the score's unit. `covariates` are columns of numbers that visits carry as far as the manifest has
    them.

    A row whose scores are missing or impossible is left out, and so is a file that does not exist: its visit goes on
    with the other modalities, if it has any. Without `need_target` a visit may have no outcome (prediction).

    Raises DataError for a table that cannot be used at all: not a CSV file, columns missing, another score or unit, a
    subject in two rows, a relative path that leaves the manifest's folder, an unknown split, more than one horizon.
    """
    columns.require(score)
    header, rows = _read_rows(path)
    _require_columns(path, header, required_columns(modalities, need_target=need_target, columns=columns))
    visits: list[Visit] = []
    items: list[Quarantined] = []
    for line, row in rows:
        _require_split(path, line, row)
        scores = _scores(row, columns)
        reason = _reason_to_refuse(row, scores, score, need_target)
        if reason is not None:
            items.append(Quarantined(row["subject_id"], "", str(RowPlace(path, line)), reason))
            continue
        visit, left_out = _visit_of(path, line, row, modalities, covariates, scores)
        items += left_out
        if visit is not None:
            visits.append(visit)
    horizons = sorted({v.horizon_months for v in visits})
    if len(horizons) > 1:
        raise DataError(
            f"{path} mixes horizons of {', '.join(f'{h:g}' for h in horizons)} months; "
            "keep one horizon a manifest: their changes are different targets",
            for_log="the manifest mixes several horizons",
        )
    return VisitTable(tuple(visits)), Quarantine(tuple(items))


def write_manifest(
    table: VisitTable,
    path: Path,
    modalities: Sequence[Modality],
    columns: OutcomeColumns = USUAL_COLUMNS,
    *,
    covariates: Sequence[str] = (),
) -> None:
    """Write visits so that `read_manifest` gives them back; the file is complete or absent. Numbers are written as they
    are: `columns` names a change, and has no unit of its own. `covariates` are columns of numbers that visits carry.

    Images under the manifest's folder are written as relative paths, so that the folder can be moved; others as
    absolute paths. Raises DataError where two modalities hold different numbers under one name.
    """
    header = tuple(dict.fromkeys((*_written_columns(modalities, columns, table), *covariates)))
    folder = absolute(path.parent)
    numbers = [{name: repr(v.covariates[name]) for name in covariates if name in v.covariates} for v in table]
    cells = [own | _cells_of(visit, folder, modalities, columns) for visit, own in zip(table, numbers, strict=True)]
    write_csv_atomically(path, header, [[row.get(name, "") for name in header] for row in cells])


def required_columns(
    modalities: Sequence[Modality], *, need_target: bool, columns: OutcomeColumns = USUAL_COLUMNS
) -> tuple[str, ...]:
    """The columns that a manifest of these modalities has to have, each once: tabular modalities may share one."""
    scores = (columns.baseline, *((columns.later,) if need_target else ()), "horizon_months")
    own = (column for kind, of_kind in by_kind(modalities) for m in of_kind for column in kind.columns(m))
    return tuple(dict.fromkeys((*IDENTITY, *scores, *own)))


def unread_columns(
    header: Sequence[str],
    modalities: Sequence[Modality],
    columns: OutcomeColumns = USUAL_COLUMNS,
    *,
    covariates: Sequence[str] = (),
) -> tuple[str, ...]:
    """The columns of a manifest that nothing reads: a name among them may be a mistake."""
    known = {*required_columns(modalities, need_target=True, columns=columns), *OPTIONAL, *covariates}
    known |= {tracer_column(modality) for modality in modalities}
    return tuple(name for name in header if name and name not in known)


def tracer_column(modality: Modality) -> str:
    """The optional column that tells the PET tracer of a modality."""
    return f"{modality.name}_tracer"


def manifest_header(path: Path) -> tuple[str, ...]:
    """The names of a manifest's columns. Raises DataError as `read_manifest`."""
    return tuple(_read_rows(path)[0])


def manifest_subjects(path: Path) -> frozenset[str]:
    """Everybody whom a row names, whether or not the row can be used. Raises DataError as `read_manifest`."""
    header, rows = _read_rows(path)
    _require_columns(path, header, ("subject_id",))
    return frozenset(row["subject_id"] for _, row in rows if row["subject_id"])


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Header and (line number, row) pairs, stripped of white space."""
    if not path.is_file():
        raise DataError(f"no manifest at {path}; name an existing CSV file", for_log="the manifest is away")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is not a CSV file in UTF-8 ({error}); save it as comma-separated text",
            for_log="the manifest is not a CSV file in UTF-8",
        ) from None
    if len(header) == 1 and any(separator in header[0] for separator in ";\t|"):
        raise DataError(
            f"{path} is not separated by commas; save it as comma-separated text",
            for_log="the manifest is not separated by commas",
        )
    if repeated := sorted(name for name, n in Counter(header).items() if n > 1):
        raise DataError(
            f"{path} has more than one column {repeated[0]!r}; keep one",
            for_log="the manifest has two columns of one name",
        )
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(row)} cells under {len(header)} column names; "
                "put quotes around a cell that holds a comma",
                for_log=f"line {line} of the manifest has {len(row)} cells under {len(header)} column names",
            )
    return header, [(line, dict(zip(header, row, strict=True))) for line, row in rows]


def _require_columns(path: Path, header: Sequence[str], required: Sequence[str]) -> None:
    if absent := [name for name in required if name not in header]:
        spare = [name for name in header if name not in required] or list(header)
        lines = [f"  {name!r}: {nearest(name, spare)}" for name in absent]
        raise DataError(
            f"{path} lacks {len(absent)} column(s):\n" + "\n".join(lines) + "\n"
            "rename or add them; a modality that was never collected is an empty column",
            for_log=f"the manifest lacks the column(s) {', '.join(absent)}",
        )


def _require_split(path: Path, line: int, row: Mapping[str, str]) -> None:
    if row.get("split", "") not in SPLITS:
        raise DataError(
            f"{path}, line {line}: split {row['split']!r}; {nearest(row['split'], SPLITS[1:])}, or empty",
            for_log=f"line {line} of the manifest names a part of the split that there is not",
        )


@dataclass(frozen=True)
class _Scores:
    """A row's score at the visit and its change, in the study's unit; NaN where a cell is no number."""

    baseline: float | None
    change: float | None


def _scores(row: Mapping[str, str], columns: OutcomeColumns) -> _Scores:
    baseline, later = parse_number(row[columns.baseline]), parse_number(row.get(columns.later, ""))
    if baseline is not None:
        baseline = columns.in_unit(baseline)
    if later is not None:
        later = columns.in_unit(later)
    if columns.follow_up and later is not None and baseline is not None:
        later -= baseline
    return _Scores(baseline, later)


def _visit_of(
    path: Path,
    line: int,
    row: Mapping[str, str],
    modalities: Sequence[Modality],
    covariates: Sequence[str],
    scores: _Scores,
) -> tuple[Visit | None, list[Quarantined]]:
    """One row's visit, or None where the row is left out, and what was left out of it."""
    subject = row["subject_id"]
    place = RowPlace(path, line)
    volumes: dict[str, Path] = {}
    tables: dict[str, tuple[float, ...]] = {}
    items: list[Quarantined] = []
    for modality in modalities:
        reading = kind_of(modality).read_cells(modality, row, place)
        if reading.file is not None:
            volumes[modality.name] = reading.file
        if reading.numbers is not None:
            tables[modality.name] = reading.numbers
        if reading.left_out is not None:
            items.append(Quarantined(subject, modality.name, reading.culprit or str(place), reading.left_out))
    numbers = {name: number for name in covariates if (number := parse_number(row.get(name, ""))) is not None}
    items += [
        Quarantined(subject, name, str(place), Reason.INCOMPLETE_NUMBERS)
        for name, number in numbers.items()
        if not math.isfinite(number)
    ]
    if not volumes and not tables:
        return None, [*items, Quarantined(subject, "", str(place), Reason.NO_MODALITY)]
    visit = Visit(
        subject_id=subject,
        site=row["site"],
        session=row["session"],
        baseline_cdrsb=cast(float, scores.baseline),
        delta_cdrsb=scores.change,
        horizon_months=cast(float, parse_number(row["horizon_months"])),
        age_years=parse_number(row.get("age_years", "")),
        phase=row.get("phase", ""),
        split=cast(Literal["", "train", "validation", "test"], row.get("split", "")),
        volumes=volumes,
        tables=tables,
        covariates={name: number for name, number in numbers.items() if math.isfinite(number)},
        tracers=_tracers(row, modalities),
    )
    return visit, items


def _tracers(row: Mapping[str, str], modalities: Sequence[Modality]) -> dict[str, str]:
    """By their canonical names; one that is not known by the name that it has here."""
    said = {modality.name: row.get(tracer_column(modality), "") for modality in modalities}
    return {name: canonical_tracer(text) or text for name, text in said.items() if text}


def _reason_to_refuse(row: Mapping[str, str], scores: _Scores, score: Score, need_target: bool) -> Reason | None:
    """Why a row's identity or scores cannot be used, or None where they can."""
    if not row["subject_id"] or not row["site"]:
        return Reason.NO_IDENTITY
    horizon, age = parse_number(row["horizon_months"]), parse_number(row.get("age_years", ""))
    if scores.baseline is None:
        return Reason.NO_BASELINE
    if not score.holds(scores.baseline):
        return Reason.IMPOSSIBLE_BASELINE
    if scores.change is None and need_target:
        return Reason.NO_CHANGE
    # The margin forgives decimals such as 0.1 + 17.9 that binary floating point rounds above 18.
    if scores.change is not None and not score.holds(scores.baseline + scores.change, margin=1e-6):
        return Reason.IMPOSSIBLE_OUTCOME
    if horizon is None or not 0 < horizon < math.inf:
        return Reason.IMPOSSIBLE_HORIZON
    if age is not None and not 0 < age < 130:
        return Reason.IMPOSSIBLE_AGE
    return None


def _cells_of(visit: Visit, folder: Path, modalities: Sequence[Modality], columns: OutcomeColumns) -> dict[str, object]:
    cells: dict[str, object] = {
        "subject_id": visit.subject_id,
        "site": visit.site,
        "session": visit.session,
        columns.baseline: repr(visit.baseline_cdrsb),
        columns.later: "" if visit.delta_cdrsb is None else repr(visit.delta_cdrsb),
        "horizon_months": repr(visit.horizon_months),
        "age_years": "" if visit.age_years is None else repr(visit.age_years),
        "phase": visit.phase,
        "split": visit.split,
    }
    measured: dict[str, object] = {}
    for modality in modalities:
        own = kind_of(modality).written_cells(modality, visit, folder)
        for column, value in own.items():
            if measured.setdefault(column, value) != value:
                raise DataError(
                    f"column {column!r} of modality {modality.name} holds other numbers in another modality; "
                    "a manifest has one column of a name: give the columns of the modalities different names"
                )
        cells |= own
        cells[tracer_column(modality)] = visit.tracers.get(modality.name, "")
    return cells


def _written_columns(modalities: Sequence[Modality], columns: OutcomeColumns, table: VisitTable) -> tuple[str, ...]:
    """Each once: a tabular modality may ask for an optional column, as for age_years."""
    required = required_columns(modalities, need_target=True, columns=columns)
    tracers = [tracer_column(m) for m in modalities if any(m.name in visit.tracers for visit in table)]
    return tuple(dict.fromkeys((*required, *OPTIONAL, *tracers)))
