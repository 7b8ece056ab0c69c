"""Dates as people's tables have them: one reading for a whole column, decided from all of its values.

`3/4/2019` is a day in March or in April, and no cell tells by itself. A column that holds a 13th to 31st tells; where
both readings are possible the column is refused, since half of the dates would be wrong without a word. Forms with one
reading (2019-03-01, 2019/03/01, 20190301, 1 Mar 2019, 01.03.2019, a spreadsheet's serial number) may be mixed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import date, datetime, timedelta
from functools import lru_cache

from permmoe.data.cells import is_missing
from permmoe.errors import DataError

DateReader = Callable[[str], date | None]

SERIAL_START = date(1899, 12, 30)
"""Day 0 of spreadsheets."""
SERIALS = (20_000, 60_000)
"""Days of 1954 to 2064."""
ONE_READING = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%d.%m.%Y", "%d.%m.%y",
    "%d %b %Y", "%d-%b-%Y", "%d%b%Y", "%d-%b-%y", "%d %B %Y", "%b %d %Y", "%B %d %Y",
)  # fmt: skip
MONTH_FIRST, DAY_FIRST = "month/day/year", "day/month/year"
READINGS = {MONTH_FIRST: ("%m/%d/%Y", "%m/%d/%y"), DAY_FIRST: ("%d/%m/%Y", "%d/%m/%y")}
SLASHED = re.compile(r"\d{1,2}/\d{1,2}/(?:\d{4}|\d{2})")


def date_reader(values: Iterable[str], column: str) -> DateReader:
    """What reads a column's cells: a date, or None where a cell is empty or one of few that are no date.

    `column` says where it stands, as `EXAMDATE of ADNIMERGE.csv`. Raises DataError, with an example, for a column none
    of whose cells is a date, and for one whose days and months cannot be told apart.
    """
    days = [_day(value) for value in values if not _is_blank(value)]
    formats = ONE_READING + READINGS[_reading([day for day in days if SLASHED.fullmatch(day)], column)]

    def read(text: str) -> date | None:
        return None if _is_blank(text) else _parsed(_day(text), formats)

    if days and not any(map(read, days)):
        raise DataError(
            f"column {column} holds no date that can be read, for example {days[0]!r}; write dates as 2019-03-31",
            for_log=f"column {column} holds no date that can be read",
        )
    return read


def _reading(slashed: list[str], column: str) -> str:
    """Which of the two readings all cells allow."""
    possible = [name for name, formats in READINGS.items() if all(_parsed(day, formats) for day in slashed)]
    if len(possible) == 1 or not slashed:
        return possible[0]
    if possible and all(day.split("/")[0].zfill(2) == day.split("/")[1].zfill(2) for day in slashed):
        return MONTH_FIRST  # 3/3/2019 is the same day in both.
    if possible:
        raise DataError(
            f"column {column} can be read as {MONTH_FIRST} or as {DAY_FIRST}, for example {slashed[0]!r}; "
            "write dates as 2019-03-31",
            for_log=f"the dates of column {column} can be read in two ways",
        )
    odd = {name: next(day for day in slashed if not _parsed(day, formats)) for name, formats in READINGS.items()}
    raise DataError(
        f"column {column} is neither {MONTH_FIRST}, for example {odd[MONTH_FIRST]!r}, nor {DAY_FIRST}, for example "
        f"{odd[DAY_FIRST]!r}; write dates as 2019-03-31",
        for_log=f"the dates of column {column} are of no one form",
    )


def _is_blank(text: str) -> bool:
    """Whether a cell is empty, has the number that ADNI writes where nothing is known, or a time without a day."""
    return is_missing(text) or text.strip() in ("-4", "-1") or re.match(r"\s*\d{1,2}:\d{2}", text) is not None


def _day(text: str) -> str:
    """A cell without its time of day, and with single spaces for commas and spaces."""
    return " ".join(re.sub(r"[T ]\d{1,2}:\d{2}.*$", "", text.strip()).replace(",", " ").split())


@lru_cache(maxsize=100_000)
def _parsed(day: str, formats: tuple[str, ...]) -> date | None:
    if re.fullmatch(r"\d{5}(\.\d*)?", day) and SERIALS[0] <= float(day) <= SERIALS[1]:
        return SERIAL_START + timedelta(days=int(float(day)))
    for pattern in formats:
        with suppress(ValueError):
            return datetime.strptime(day, pattern).date()
    return None
