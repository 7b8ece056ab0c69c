"""The gateway's record of what it refused: a count for each rule, and a line in the log for each refusal."""

from __future__ import annotations

import logging

from permmoe_server.gateway.rules import RULES, GatewayRule

_log = logging.getLogger("permmoe.gateway")

_LOGGED_PATH_BYTES = 80
_LOGGED_METHOD_CHARACTERS = 16


class Refusals:
    """Counts refusals by rule, and writes one line for each. The keys never change, so any thread may read them."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(RULES, 0)

    def by_rule(self) -> dict[str, int]:
        """A copy: the number of refusals under each rule since the start, zeros included."""
        return dict(self._counts)

    def note(self, rule: GatewayRule, peer: str, method: str = "-", raw_path: bytes = b"-") -> None:
        """Count a refusal and log rule, status, address, method and a truncated, escaped path; never a body."""
        self._counts[rule.name] += 1
        path = repr(raw_path[:_LOGGED_PATH_BYTES])[2:-1] + ("..." if len(raw_path) > _LOGGED_PATH_BYTES else "")
        shown = ascii(method[:_LOGGED_METHOD_CHARACTERS])[1:-1]
        _log.warning("refused rule=%s status=%d peer=%s method=%s path=%s", rule.name, rule.status, peer, shown, path)
