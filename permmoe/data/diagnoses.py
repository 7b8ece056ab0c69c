"""Diagnoses in one set of words, whichever of ADNI's the tables use: CN, MCI, Dementia."""

from __future__ import annotations

import math

from permmoe.data.cells import is_missing, parse_number

WORDS = {
    "CN": "CN", "NL": "CN", "NORMAL": "CN", "SMC": "CN",
    "MCI": "MCI", "EMCI": "MCI", "LMCI": "MCI",
    "DEMENTIA": "Dementia", "AD": "Dementia",
}  # fmt: skip
CURRENT = {1: "CN", 2: "MCI", 3: "Dementia"}
"""DXSUM's DIAGNOSIS and DXCURREN."""
AFTER_CHANGE = {
    1: "CN", 2: "MCI", 3: "Dementia", 4: "MCI", 5: "Dementia", 6: "Dementia", 7: "CN", 8: "MCI", 9: "CN",
}  # fmt: skip
"""DXSUM's DXCHANGE: stable, conversion or reversion; the diagnosis that it ends with."""
CODES = {"DIAGNOSIS": CURRENT, "DXCHANGE": AFTER_CHANGE, "DXCURREN": CURRENT}
"""The columns of DXSUM that tell the diagnosis, best first."""


def diagnosis_of(text: str) -> str:
    """A diagnosis in this module's words; empty where none was made, as written where the word is not known.

    `MCI to Dementia` is a visit that ends with dementia.
    """
    if is_missing(text) or ((number := parse_number(text)) is not None and number < 0):
        return ""
    last = text.strip().split(" to ")[-1].strip()
    return WORDS.get(last.upper(), last)


def coded_diagnosis(text: str, codes: dict[int, str]) -> str:
    """A diagnosis that a table has as a code or in words; empty where none was made."""
    number = parse_number(text)
    is_code = number is not None and math.isfinite(number)
    return codes.get(int(number or 0), "") if is_code else diagnosis_of(text)
