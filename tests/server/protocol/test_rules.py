"""The rules by which a reply is refused."""

from __future__ import annotations

import re
from pathlib import Path

import permmoe_server.coordination
import permmoe_server.protocol
from permmoe_server.protocol.rules import SITE_ERROR, reply_reason

ROOMS = [Path(room.__path__[0]) for room in (permmoe_server.protocol, permmoe_server.coordination)]
SOURCES = [source for room in ROOMS for source in room.glob("*.py")]


def test_every_rule_of_replies_has_a_sentence() -> None:
    rules = {
        rule for source in SOURCES for rule in re.findall(r'(?:RejectedReply|NotAReply)\("(\w+)"\)', source.read_text())
    }
    assert rules and not [rule for rule in sorted(rules) if reply_reason(rule) == SITE_ERROR]
