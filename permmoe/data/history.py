"""What visits before the index visit say: the columns of modalities of the kind `history`.

| column | what it is |
|---|---|
| score_per_year | change a year of the score that the outcome is the change of |
| COLUMN_per_year | the same of any column of the tables, as MMSE_per_year or UCSFFSX.ST29SV_per_year |
| years_before | from the first visit with the score to the index visit |
| visits_before | how many earlier visits have the score |
| normal_before | of the earlier visits with a diagnosis, the share with CN |

A change a year is the slope of a line, by least squares, through the numbers up to the index visit and its own. Nothing
that is known only after the index visit counts: neither a visit of a later day, nor a number of a later day that stands
with an earlier visit. A subject of whom one column of a modality cannot be told lacks that modality, as one who was not
scanned lacks an image: it is never filled with zeros.

Left out of a history and itemised: a visit whose code and date contradict each other about which side of the index
visit it lies on, numbers of one day that differ, and numbers off their score's scale.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from permmoe.config import Score
from permmoe.data.adni_sources import EQUIVALENT, SCORE_COLUMNS
from permmoe.data.kinds import kind_of
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.registries.scores import SCORES
from permmoe.data.target_rule import Assessment, Dated
from permmoe.data.tracer_rule import is_of_its_tracer
from permmoe.errors import DataError, nearest
from permmoe.modality import Modality

PER_YEAR = "_per_year"
SCORE = "score"
"""The outcome's score, whatever it is called in the tables."""
YEARS, VISITS, NORMAL = "years_before", "visits_before", "normal_before"
LEAST_DAYS = 90
"""Over less, the noise of a rating is larger than any course."""
DAYS_A_YEAR = 365.25

Numbers = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Histories:
    """A subject's modalities of earlier visits."""

    tables: Numbers
    """By modality, in the order of its columns; no entry where one cannot be told."""
    left_out: tuple[Quarantined, ...] = ()


def followed_columns(modalities: Iterable[Modality]) -> tuple[str, ...]:
    """The columns of the tables whose course modalities ask for, besides the outcome's score.

    Raises DataError for a column that is none of a history, and for one whose numbers at two visits cannot be compared.
    """
    asked = dict.fromkeys(column for m in modalities if kind_of(m).is_of_earlier_visits for column in m.columns)
    known = (f"{SCORE}{PER_YEAR}", YEARS, VISITS, NORMAL)
    followed = []
    for column in asked:
        if column in known:
            continue
        source = column.removesuffix(PER_YEAR)
        if source == column or not source:
            raise DataError(f"no history has the column {column!r}; {nearest(column, known)}, or COLUMN{PER_YEAR}")
        if is_of_its_tracer(source.rpartition(".")[2]):
            raise DataError(
                f"column {column!r}: the tracer may change from one visit to the next, and uptake ratios of different "
                "tracers cannot be compared; follow Centiloids"
            )
        followed.append(source)
    return tuple(followed)


def history_of(
    subject: str, visits: Sequence[Assessment], index: Assessment, modalities: Sequence[Modality]
) -> Histories:
    """What a subject's visits before `index`, one of them, say in the modalities that ask for it."""
    asking = [m for m in modalities if kind_of(m).is_of_earlier_visits]
    if not asking:
        return Histories({})
    misdated = [visit for visit in visits if _contradicts(visit, index)]
    items = [Quarantined(subject, "", f"visit {visit.code}", Reason.OTHER_SIDE) for visit in misdated]
    # Equal days come after the index visit: of a day's numbers its own stands.
    known = [v for v in visits if v is not index and v.taken <= index.taken and v not in misdated]
    before = sorted((v for v in known if v.taken < index.taken), key=lambda v: (v.taken, v.code))
    columns: dict[str, float | None] = {NORMAL: _share_of_normal(before)}
    for source in (SCORE, *followed_columns(asking)):
        numbers, reasons = _by_day(source, [index, *known], index.taken)
        names = [m.name for m in asking if source == SCORE or f"{source}{PER_YEAR}" in m.columns]
        items += [Quarantined(subject, name, source, reason) for reason in reasons for name in names]
        columns[f"{source}{PER_YEAR}"] = _slope(numbers)
        if source == SCORE:
            earlier = [day for day in numbers if day < index.taken]
            columns[VISITS] = float(len(earlier)) if earlier else None
            columns[YEARS] = _years(min(earlier), index.taken) if earlier else None
    found = {m.name: [number for column in m.columns if (number := columns[column]) is not None] for m in asking}
    tables = {m.name: tuple(found[m.name]) for m in asking if len(found[m.name]) == len(m.columns)}
    return Histories(tables, tuple(items))


def _contradicts(visit: Assessment, index: Assessment) -> bool:
    """Whether code and date lie on different sides of the index visit: one is wrong, and nothing tells which."""
    months, own = _months(visit.code), _months(index.code)
    if months is None or own is None or visit is index:
        return False
    return (visit.taken < index.taken and months > own) or (visit.taken > index.taken and months < own)


def _months(code: str) -> int | None:
    """Since the first visit, as the code says; None where it does not."""
    match = re.fullmatch(r"m(\d+)", code)
    return 0 if code == "bl" else int(match[1]) if match else None


def _by_day(source: str, visits: Sequence[Assessment], last_day: date) -> tuple[dict[date, float], list[Reason]]:
    """The numbers of a column by their day, up to the last, and why others were left out. The first visit's stands
    where another one has a different number of the same day."""
    scale = SCALES.get(source)
    own: date | None = None
    found: dict[date, float] = {}
    twice: set[date] = set()
    reasons = []
    for place, visit in enumerate(visits):
        dated = _dated(source, visit)
        if dated is None or dated.day > last_day:
            continue
        if scale is not None and not scale.holds(dated.number):
            reasons.append(Reason.IMPOSSIBLE_SCORE)
            continue
        if place == 0:
            own = dated.day
        if found.setdefault(dated.day, dated.number) != dated.number and dated.day not in twice:
            twice.add(dated.day)
            reasons.append(Reason.TWO_NUMBERS_A_DAY)
    return {day: number for day, number in found.items() if day not in twice or day == own}, reasons


def _dated(source: str, visit: Assessment) -> Dated | None:
    """A visit's number of a column; its score is of its own day where nothing says another."""
    if source != SCORE:
        return visit.followed.get(source)
    return None if visit.cdrsb is None else visit.followed.get(SCORE, Dated(visit.taken, visit.cdrsb))


def _slope(numbers: Mapping[date, float]) -> float | None:
    """Change a year, by least squares; None for too short a time."""
    if not numbers or (max(numbers) - min(numbers)).days < LEAST_DAYS:
        return None
    # In the order of time, so that no bit depends on that of the tables.
    days = sorted(numbers)
    years = [_years(days[0], day) for day in days]
    centre, mean = sum(years) / len(years), sum(numbers[day] for day in days) / len(days)
    moment = sum((year - centre) * (numbers[day] - mean) for year, day in zip(years, days, strict=True))
    return moment / sum((year - centre) ** 2 for year in years)


def _share_of_normal(before: Sequence[Assessment]) -> float | None:
    diagnoses = [visit.diagnosis for visit in before if visit.diagnosis]
    return sum(diagnosis == "CN" for diagnosis in diagnoses) / len(diagnoses) if diagnoses else None


def _years(first: date, last: date) -> float:
    return (last - first).days / DAYS_A_YEAR


def _scales() -> dict[str, Score]:
    by_column = {column: SCORES[name] for name, column in SCORE_COLUMNS.items() if column}
    of_tables = {".".join(EQUIVALENT[column]): score for column, score in by_column.items() if column in EQUIVALENT}
    return by_column | of_tables


SCALES: Mapping[str, Score] = _scales()
"""Of the columns that are scores of a known range."""
