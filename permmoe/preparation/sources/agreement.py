"""What is asked of all scans together, whichever layout each comes from: days, sessions and identifiers that agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

from permmoe.data.image_names import bids_label
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason
from permmoe.preparation.sources.choosing import Candidate, day_label
from permmoe.preparation.sources.person import identifiers_of_two


def agreeing(candidates: Sequence[Candidate], today: date) -> tuple[list[Candidate], list[Quarantined]]:
    """The scans without those of days to come, of subjects whose names BIDS cannot hold, and of two people under one
    identifier; those are listed."""
    of_two = identifiers_of_two((c.subject_id, c.person) for c in candidates)
    kept: list[Candidate] = []
    items: list[Quarantined] = []
    for candidate in candidates:
        if candidate.taken is not None and candidate.taken > today:
            reason = Reason.FUTURE_DATE
        elif not bids_label(candidate.subject_id):
            reason = Reason.NO_PATIENT
        elif candidate.subject_id in of_two:
            reason = Reason.TWO_PATIENTS
        else:
            kept.append(candidate)
            continue
        items.append(Quarantined(candidate.subject_id, candidate.modality, str(candidate.file), reason))
    return _in_known_sessions(kept), items


def _in_known_sessions(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Scans whose session is but their day, in the session that another source gives that day a name for."""
    names: dict[tuple[str, date | None], str] = {}
    for c in candidates:
        if not _is_named_by_day(c):
            names.setdefault((c.subject_id, c.taken), c.session)
    return [
        replace(c, session=names.get((c.subject_id, c.taken), c.session)) if _is_named_by_day(c) else c
        for c in candidates
    ]


def _is_named_by_day(candidate: Candidate) -> bool:
    return candidate.taken is not None and candidate.session == day_label(candidate.taken)
