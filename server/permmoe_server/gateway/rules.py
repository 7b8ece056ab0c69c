"""Why the gateway turns a request or a connection away: each rule with its HTTP status and its sentence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GatewayRule:
    """A rule whose breach ends a request or a connection."""

    name: str
    """As it stands in logs, metrics and answers."""
    status: int
    """The HTTP status of the answer; 0 where the connection ends without one."""
    sentence: str
    """What happened, for the coordinator; it says nothing about who it was."""


RULES: dict[str, GatewayRule] = {
    rule.name: rule
    for rule in (
        GatewayRule("handshake", 0, "It had no valid certificate of this federation, or TLS failed otherwise."),
        GatewayRule("not_on_roster", 403, "Its certificate's key is not on the roster."),
        GatewayRule("path", 404, "It asked for something that the gateway does not offer."),
        GatewayRule("method", 405, "It used another HTTP method than the one its path has."),
        GatewayRule("query", 400, "Its address had a query string, which no request of a site has."),
        GatewayRule("body_size", 413, "Its body was, or said it was, too long."),
        GatewayRule("slow_body", 408, "Its body was not complete in time."),
        GatewayRule("slow_headers", 408, "Its request header was not complete in time."),
        GatewayRule("slow_exchange", 0, "It did not take the answer in time and was cut off."),
        GatewayRule("malformed", 400, "It was not HTTP/1.1."),
        GatewayRule("rate", 429, "It asked too often."),
        GatewayRule("connections", 503, "Too many connections were open."),
        GatewayRule("address_connections", 503, "Its address had too many connections open."),
        GatewayRule("busy", 503, "Too many bytes of other requests were held at that moment."),
        GatewayRule("upstream", 502, "The superlink behind the gateway was down, or sent too much."),
        GatewayRule("upstream_slow", 504, "The superlink behind the gateway took too long to answer."),
    )
}
"""Name -> rule."""


def rule_sentence(name: str) -> str:
    """The sentence of a rule, or nothing for a name that is no rule of this version."""
    return RULES[name].sentence if name in RULES else ""


class Refused(Exception):
    """A request or a connection has broken a rule."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = RULES[rule]
