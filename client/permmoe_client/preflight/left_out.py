"""What was left out of the site's data, as findings: how much, for which reasons, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable

from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Remedy
from permmoe_client.preflight.outcome import Outcome, ok, warning

SHOW = "run the check with --details to see them; that output names patients"


def with_remedy(items: Iterable[Quarantined], remedy: Remedy) -> list[Quarantined]:
    """The items for which this is what to do next."""
    return [item for item in items if item.reason.remedy is remedy]


def left_out_outcome(items: Iterable[Quarantined], what: str) -> Outcome:
    """A warning where anything was left out, with what to do about each of its reasons."""
    found = Quarantine(tuple(items))
    if not len(found):
        return ok("none")
    remedies = "; ".join(dict.fromkeys(item.reason.remedy for item in found))
    return warning(f"{len(found)} {what}: {reasons_text(found)}", f"{remedies}; {SHOW}", item_lines(found))


def reasons_text(found: Quarantine) -> str:
    """Reasons with how often each occurs; names no subject and no file."""
    return "; ".join(f"{reason} ({n})" for reason, n in found.counts().items())


def item_lines(found: Quarantine) -> tuple[str, ...]:
    """A line for each item, which names its subject and file."""
    return tuple(" ".join(filter(None, (i.subject_id, i.modality, i.file, i.reason))) for i in found)
