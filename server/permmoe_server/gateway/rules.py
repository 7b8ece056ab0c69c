"""The rules by which the gateway turns a request or a connection away, each declared once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class GatewayRule:
    """A reason to refuse: its name in logs, replies and counts, a sentence for the coordinator, and an HTTP status."""

    name: str
    reason: str
    status: int | None
    """None: the connection is cut off without an answer."""


_RULES = (
    GatewayRule("handshake", "It had no certificate of this federation, or an expired one, or TLS failed.", None),
    GatewayRule("not_on_roster", "Its certificate's key is not on the roster.", 403),
    GatewayRule("path", "It asked for something that the gateway does not offer.", 404),
    GatewayRule("method", "It used another HTTP method than the one its path has.", 405),
    GatewayRule("query", "Its address had a query string, which no request of a site has.", 400),
    GatewayRule("body_size", "Its body was, or was announced to be, too long.", 413),
    GatewayRule("slow_body", "Its body was not complete in time.", 408),
    GatewayRule("slow_headers", "Its request headers were not complete in time.", 408),
    GatewayRule("slow_exchange", "It did not take the answer in time and was cut off.", None),
    GatewayRule("malformed", "It was not HTTP/1.1.", 400),
    GatewayRule("rate", "Its site sent too many requests in a short time.", 429),
    GatewayRule("connections", "Too many connections were open.", 503),
    GatewayRule("address_connections", "Its address had too many connections open.", 503),
    GatewayRule("busy", "Bytes of other requests were held for so long that there was no room for it.", 503),
    GatewayRule("upstream", "The superlink behind the gateway was down, or sent too much.", 502),
    GatewayRule("upstream_slow", "The superlink behind the gateway took too long to answer.", 504),
)
GATEWAY_RULES: Mapping[str, GatewayRule] = MappingProxyType({rule.name: rule for rule in _RULES})
"""Every rule by its name."""


def gateway_reason(name: str) -> str:
    """Return the sentence of a rule, or an empty string where there is no such rule."""
    return GATEWAY_RULES[name].reason if name in GATEWAY_RULES else ""
