"""Whom a study waits for, in a sentence for the coordinator."""

from __future__ import annotations

from collections.abc import Sequence

from permmoe_server.protocol.readiness import Readiness
from permmoe_server.protocol.rules import reply_reason


def waiting_sentence(readiness: Readiness, offline: Sequence[str]) -> str:
    """Say which sites have approved the study, which have not, whose answers do not count, and who cannot be asked."""
    groups = {
        "approved": readiness.ready,
        "not approved yet": readiness.unapproved,
        "not answered yet": readiness.silent,
        "answers do not count": tuple(sorted(readiness.unproven)),
        "not asked any more, quarantined": readiness.quarantined,
        "offline": offline,
    }
    listed = "; ".join(f"{words}: {', '.join(names)}" for words, names in groups.items() if names)
    needed, ready = readiness.needed, len(readiness.ready)
    reasons = [f" The answer of {name}: {reply_reason(rule)}" for name, rule in sorted(readiness.unproven.items())]
    return f"{needed} sites have to be online and have approved the study, {ready} are. {listed}.{''.join(reasons)}"
