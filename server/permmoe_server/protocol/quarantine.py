"""Sites that send what is no reply: after a few such messages a site is not asked any more in this study.

One such message may come of a damaged disk or of a client that is too old. A site that goes on so costs every round
its time, and may be looking for a message that does harm. The count is kept by site, so that it outlives connections,
and is read again from the record of rounds when the coordinator is started again.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

from permmoe_server.protocol.rules import MALFORMED_RULES, reply_reason

LOG = logging.getLogger("permmoe.server")

QUARANTINED = "quarantined"
"""The rule under which a record names a site that was not asked."""
MOST_MALFORMED = 3


@dataclass
class Quarantine:
    """How many malformed replies each site has sent; `note` changes it in place."""

    malformed: Counter[str] = field(default_factory=Counter)

    def note(self, sender: str, rule: str | None) -> None:
        """Count a reply that was left out; `sender` names its site or, where that is unknown, its node."""
        if rule not in MALFORMED_RULES or self.holds(sender):
            return
        self.malformed[sender] += 1
        if self.holds(sender):
            LOG.warning(
                "%s has sent %d replies that are none, and is not asked any more in this study; the last one: %s",
                sender,
                MOST_MALFORMED,
                reply_reason(rule),
            )

    def holds(self, sender: str) -> bool:
        """Whether a site is not asked any more."""
        return self.malformed[sender] >= MOST_MALFORMED
