"""ADNI's phases and visit codes: one code for one visit, whichever phase wrote it down.

VISCODE is the code of the phase that collected a row, VISCODE2 its translation into months since the first visit.
Where VISCODE2 is missing, codes are translated for subjects who enrolled in the phase that wrote them; those who went
on from an older phase have the same codes at other months (`v11` is the first year in ADNI2, not in ADNI), so theirs
are left as they are: equal codes of two tables are still one visit. Sources: the table VISITS and the data dictionary
of ADNIMERGE2 (github.com/atri-biostats/ADNIMERGE2), and Clinica's converter of ADNI.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from permmoe.data.cells import is_missing

PHASES = ((2000, "ADNI1"), (3000, "ADNIGO"), (6000, "ADNI2"), (10000, "ADNI3"))
"""First RID that no longer belongs to the phase; later ones are ADNI4's."""
OF_ADNI2 = {
    "v01": "sc", "v02": "scmri", "v03": "bl", "v04": "m03", "v05": "m06", "v11": "m12", "v12": "m18", "v21": "m24",
    "v22": "m30", "v31": "m36", "v32": "m42", "v41": "m48", "v42": "m54", "v51": "m60", "v52": "m66",
}  # fmt: skip
"""Visits of those who enrolled in ADNI2; `v12` and the like are telephone calls half a year later."""
FIRST_VISIT = ("sc", "scmri", "m00")
"""Screening is counted as the first visit, `bl`: CDR is rated then, and MRI taken."""
NO_VISIT = re.compile(r"f|nv|uns\d*|tau|")
"""Screen failures, visits that did not take place, unscheduled ones: a subject may have several under one code."""


def phase_of(rid: int) -> str:
    """The phase in which a subject with this roster number enrolled."""
    return next((phase for end, phase in PHASES if rid < end), "ADNI4")


def visit_code(row: Mapping[str, str], rid: int) -> str:
    """A visit's code in the terms of ADNIMERGE (`bl`, `m06`, `m12` …), or as written where that is not known."""
    code = next((text for key in ("VISCODE2", "VISCODE") if not is_missing(text := row.get(key, ""))), "").lower()
    enrolled = phase_of(rid)
    if enrolled == "ADNI2":
        code = OF_ADNI2.get(code, code)
    elif enrolled == "ADNI3" and re.fullmatch(r"y\d", code):
        code = f"m{12 * int(code[1:]):02d}"
    elif enrolled == "ADNI4":
        code = code.removeprefix("4_")
    if months := re.fullmatch(r"m(\d+)", code):
        code = f"m{int(months[1]):02d}"
    return "bl" if code in FIRST_VISIT else code


def names_one_visit(code: str) -> bool:
    """Whether two rows of a subject with this code are of one visit."""
    return NO_VISIT.fullmatch(code) is None
