"""Whose rows they are: dates of birth, and subjects under whose identifier there are two people."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date

from permmoe.data.adni_rows import AdniRow
from permmoe.data.adni_sources import WORDS
from permmoe.data.cells import parse_number
from permmoe.data.image_names import PTID

YEARS = (1880, 2020)
"""Years of birth that are read; others are mistakes or codes (9999)."""
MONTH_AND_YEAR = re.compile(r"(?P<month>\d{1,2})/(?:\d{1,2}/)?(?P<year>\d{4})")
YEAR_FIRST = re.compile(r"(?P<year>\d{4})(?:-(?P<month>\d{1,2})(?:-\d{1,2})?)?(?:\.0)?(?:[T ].*)?")


def birth_dates(rows: Iterable[AdniRow]) -> dict[int, date]:
    """Dates of birth by roster number, from PTDEMOG: PTDOB (month and year), else PTDOBYY (with PTDOBMM or without).

    The day is not published: it is taken for the 15th, and the month, where it is not there, for July, so that an age
    is at most half a month or half a year off.
    """
    births: dict[int, tuple[int, int | None]] = {}
    for row in rows:
        born = _born(row.cells)
        known = births.get(row.rid)
        if born is not None and (known is None or known[1] is None):
            births[row.rid] = born
    return {rid: date(year, month, 15) if month else date(year, 7, 1) for rid, (year, month) in births.items()}


@dataclass(frozen=True)
class People:
    """Who is who, by roster number."""

    ptids: Mapping[int, str]
    """As `011_S_0002`, where images or tables give it."""
    ambiguous: Set[int]
    """Roster numbers under which there are two people."""

    def name(self, rid: int) -> str:
        """The PTID; the bare roster number where there is none."""
        return self.ptids.get(rid, f"RID {rid}")

    def site(self, rid: int) -> str:
        """The PTID's first digits; empty where there is none."""
        name = self.name(rid)
        return name.split("_")[0] if re.fullmatch(PTID, name) else ""


def identify(rows: Sequence[AdniRow], of_images: Sequence[tuple[int, str]] = ()) -> People:
    """Who is who, by all rows that were read, and by pairs of roster number and PTID that images' names give.

    Two people are under one roster number where it has two PTIDs, two years of birth, or two sexes. A PTID that stands
    beside two roster numbers makes both ambiguous. Images are asked first for names.
    """
    of_tables = [(row.rid, row.subject_id) for row in rows if row.subject_id]
    ptids = dict(reversed((*of_images, *of_tables)))
    return People(ptids, _ambiguous(rows, of_images))


def _ambiguous(rows: Iterable[AdniRow], of_images: Iterable[tuple[int, str]]) -> set[int]:
    names: dict[int, set[str]] = defaultdict(set)
    years: dict[int, set[int]] = defaultdict(set)
    sexes: dict[int, set[float]] = defaultdict(set)
    numbers: dict[str, set[int]] = defaultdict(set)
    for rid, name in of_images:
        names[rid].add(name)
        numbers[name].add(rid)
    for row in rows:
        if row.subject_id:
            names[row.rid].add(row.subject_id)
            numbers[row.subject_id].add(row.rid)
        if born := _born(row.cells):
            years[row.rid].add(born[0])
        if (sex := _sex(row.cells)) is not None:
            sexes[row.rid].add(sex)
    found = {rid for seen in (names, years, sexes) for rid, values in seen.items() if len(values) > 1}
    return found.union(*(rids for rids in numbers.values() if len(rids) > 1))


def _born(cells: Mapping[str, str]) -> tuple[int, int | None] | None:
    """Year and month of birth; the month is None where it is not there."""
    for name in ("PTDOB", "PTDOBYY"):
        text = cells.get(name, "").strip()
        match = MONTH_AND_YEAR.fullmatch(text) or YEAR_FIRST.fullmatch(text)
        if match and YEARS[0] <= int(match["year"]) <= YEARS[1]:
            month = parse_number(match["month"] or cells.get("PTDOBMM", ""))
            if name == "PTDOBYY" and match["month"]:
                month = None  # A year that a program wrote as its first of January.
            return int(match["year"]), int(month) if month is not None and 1 <= month <= 12 else None
    return None


def _sex(cells: Mapping[str, str]) -> float | None:
    text = cells.get("PTGENDER", "").upper()
    code = WORDS.get(text, parse_number(text))
    return code if code in (1.0, 2.0) else None
