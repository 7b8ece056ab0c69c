"""What numbers of the Uniform Data Set (UDS) can be, so that its codes for what was not measured are not read as such.

A column's codes lie beyond its range: 88 could not be calculated, 95 to 98 not completed, 99 unknown, 888, 995 to 999
and 8888 likewise in wider columns, 8 and 9 in answers, -4 not collected. No code is one in every column (a weight of 88
pounds is a weight), which is why a column is read only where its range is known. Names and ranges: NACC's Researcher's
Data Dictionary for the UDS, versions 1 to 3; OASIS-3's UDS tables have the same columns.
"""

from __future__ import annotations

from collections.abc import Mapping

from permmoe.data.table_files import column_key

_FAQ = ("BILLS", "TAXES", "SHOPPING", "GAMES", "STOVE", "MEALPREP", "EVENTS", "PAYATTN", "REMDATES", "TRAVEL")
_BOXES = ("MEMORY", "ORIENT", "JUDGMENT", "COMMUN", "HOMEHOBB", "PERSCARE", "COMPORT", "CDRLANG")
_RANGES: Mapping[str, tuple[float, float]] = {
    "CDRSUM": (0, 18), "CDRGLOB": (0, 3), "CDRTOT": (0, 3), **dict.fromkeys(_BOXES, (0, 3)),
    "NACCMMSE": (0, 30), "MMSE": (0, 30), "NACCMOCA": (0, 30), "MOCATOTS": (0, 30),
    "NACCGDS": (0, 15), "GDS": (0, 15), **dict.fromkeys(_FAQ, (0, 3)), "HACHIN": (0, 12),
    "LOGIMEM": (0, 25), "MEMUNITS": (0, 25), "CRAFTVRS": (0, 44), "CRAFTURS": (0, 25), "CRAFTDVR": (0, 44),
    "CRAFTDRE": (0, 25), "DIGIF": (0, 12), "DIGIFLEN": (0, 8), "DIGIB": (0, 12), "DIGIBLEN": (0, 7),
    "DIGFORCT": (0, 14), "DIGBACCT": (0, 14), "ANIMALS": (0, 77), "VEG": (0, 77), "TRAILA": (0, 150),
    "TRAILB": (0, 300), "WAIS": (0, 93), "BOSTON": (0, 30), "MINTTOTS": (0, 32), "UDSBENTC": (0, 17),
    "UDSBENTD": (0, 17), "UDSVERFC": (0, 40), "UDSVERLC": (0, 40),
    "NACCAGE": (18, 120), "NACCAGEB": (18, 120), "EDUC": (0, 36), "SEX": (1, 2), "NACCNE4S": (0, 2),
    "NACCFAM": (0, 1), "WEIGHT": (50, 400), "HEIGHT": (36, 87.9), "NACCBMI": (10, 100), "BPSYS": (70, 230),
    "BPDIAS": (30, 140), "HRATE": (33, 160),
}  # fmt: skip
UDS_RANGES = {name: (float(low), float(high)) for name, (low, high) in _RANGES.items()}
"""Least and most, by a column's name in capitals."""


def measured(column: str, number: float | None) -> float | None:
    """A number that lies in its column's range; None for a code, and where nothing is written."""
    if number is None:
        return None
    low, high = UDS_RANGES[column_key(column)]
    return number if low <= number <= high else None


def is_code(number: float | None) -> bool:
    """Whether a number beyond a scale says that nothing was measured, in whichever width; NaN is none."""
    if number is None:
        return False
    return number in (-4, -1, 8, 9, 88, 888, 8888) or any(base <= number <= base + 4 for base in (95, 995, 9995))
