"""Refusals of the gateway: the exception that stands for one, and the counters and log lines of all."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from permmoe_server.gateway.rules import GATEWAY_RULES

_log = logging.getLogger("permmoe.gateway")

_LOGGED_PATH_BYTES = 80
_LOGGED_METHOD_CHARACTERS = 16


class Refused(Exception):
    """A request breaks the gateway rule named `rule`."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class Refusals:
    """Counts refusals by rule and logs one line for each. The keys never change, so any thread may read them."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(GATEWAY_RULES, 0)

    def by_rule(self) -> dict[str, int]:
        """Return a copy of the number of refusals under each rule since the start, zeros included."""
        return dict(self._counts)

    def note(self, rule: str, peer: str, method: str = "-", raw_path: bytes = b"-") -> None:
        """Count a refusal and log rule, status, address, method and a truncated, escaped path; never a body.

        A rule without an HTTP status is logged with status 0.
        """
        self._counts[rule] += 1
        path = repr(raw_path[:_LOGGED_PATH_BYTES])[2:-1] + ("..." if len(raw_path) > _LOGGED_PATH_BYTES else "")
        shown = ascii(method[:_LOGGED_METHOD_CHARACTERS])[1:-1]
        status = GATEWAY_RULES[rule].status or 0
        _log.warning("refused rule=%s status=%d peer=%s method=%s path=%s", rule, status, peer, shown, path)


def read_refusals(path: Path) -> dict[str, int]:
    """Return what the gateway has turned away, by rule, from the file that its process keeps; nothing without one."""
    try:
        counts: dict[str, int] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return counts


def refusal_body(rule: str) -> bytes:
    """Return the text of an HTTP answer that refuses under a rule."""
    return f"refused: {rule}\n".encode()
