"""The declarations of the gateway's rules."""

from __future__ import annotations

import re
from pathlib import Path

import permmoe_server.gateway
from permmoe_server.gateway.refusals import Refusals
from permmoe_server.gateway.rules import GATEWAY_RULES, gateway_reason

SOURCE = "".join(path.read_text() for path in Path(permmoe_server.gateway.__file__).parent.glob("*.py"))
ENFORCED = re.compile(
    r'(?:Refused\(|_turn_away\(|\.note\(|\.buffer\([\w.]+, |_set_deadline\([\w.]+, |_set_deadline\(seconds, )"(\w+)"'
)


def test_every_rule_that_the_gateway_enforces_is_declared_and_every_declared_rule_is_enforced() -> None:
    assert set(ENFORCED.findall(SOURCE)) == set(GATEWAY_RULES)


def test_every_rule_has_a_sentence_and_is_counted() -> None:
    assert all(rule.reason.endswith(".") and rule.name == name for name, rule in GATEWAY_RULES.items())
    assert Refusals().by_rule() == dict.fromkeys(GATEWAY_RULES, 0)


def test_a_word_that_is_no_rule_has_no_reason() -> None:
    assert gateway_reason("not_a_rule") == "" != gateway_reason("handshake")
