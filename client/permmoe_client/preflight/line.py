"""The line to the coordinator, step by step as a connection is made; each step that fails leaves the rest untried.

Nothing is sent but `GET /health`, and that only to a server that has proved itself.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from http.client import HTTPException, HTTPResponse

from cryptography import x509

from permmoe.errors import ConfigurationError
from permmoe_client.connection.clock import ahead_seconds
from permmoe_client.connection.identity import client_context
from permmoe_client.connection.impostor import shown_certificate
from permmoe_client.connection.route import ProxyRefused, open_way, proxy_for, tunnel
from permmoe_client.preflight.outcome import Attempt
from permmoe_client.preflight.surroundings import Surroundings
from permmoe_client.site import Coordinator

TIMEOUT_SECONDS = 10.0
"""How long each step may take."""


@dataclass(frozen=True)
class Answer:
    """The answer to `GET /health`."""

    status: int
    ahead_seconds: float | None
    """How far the site's clock is ahead of the answer's `Date`; None where the answer has none."""


@dataclass(frozen=True)
class Line:
    """How far a connection came."""

    proxy: Attempt[str] = field(default_factory=Attempt)
    """The way that the client goes, in words, once it is open: straight, or through a proxy."""
    addresses: Attempt[Sequence[str]] = field(default_factory=Attempt)
    """Of the coordinator, or of the proxy."""
    connected: Attempt[bool] = field(default_factory=Attempt)
    peer: Attempt[x509.Certificate] = field(default_factory=Attempt)
    """The certificate that the other end shows; it is not verified."""
    tls_version: Attempt[str] = field(default_factory=Attempt)
    """The TLS version of a connection on which the server proved itself."""
    answer: Attempt[Answer] = field(default_factory=Attempt)


def try_line(coordinator: Coordinator, world: Surroundings) -> Line:
    """Go as far as the line leads, the way that the client goes; not a step where the host is no host."""
    if not is_host(coordinator.host):
        return Line()
    try:
        proxy = proxy_for(coordinator, world.environment)
    except ConfigurationError as error:
        return Line(proxy=Attempt(trouble=str(error)))
    next_stop = proxy or coordinator
    line = Line() if proxy else Line(proxy=Attempt("no proxy"))
    try:
        line = replace(line, addresses=Attempt(tuple(world.resolve(next_stop.host, next_stop.port))))
    except (OSError, ValueError) as error:
        return replace(line, addresses=Attempt(trouble=_reason(error)))
    try:
        plain = world.connect(next_stop.host, next_stop.port, TIMEOUT_SECONDS)
    except OSError as error:
        return replace(line, connected=Attempt(trouble=_reason(error)))
    if proxy:
        try:
            tunnel(plain, proxy, coordinator.host, coordinator.port)
        except OSError as error:
            plain.close()
            return replace(line, proxy=Attempt(trouble=_reason(error)))
        line = replace(line, proxy=Attempt(f"the proxy {proxy}, which {proxy.named_by} names"))
    line = replace(line, connected=Attempt(True), peer=_peer(plain, coordinator, world))
    if line.peer.result is None:
        return line
    try:
        context = client_context(coordinator, world.now())
    except (ConfigurationError, OSError):
        return line
    try:
        plain = open_way(coordinator, proxy, world.connect, TIMEOUT_SECONDS)
        with plain, context.wrap_socket(plain, server_hostname=coordinator.host) as secured:
            line = replace(line, tls_version=Attempt(secured.version() or "unknown"))
            return replace(line, answer=_health_answer(secured, coordinator.host, world))
    except (OSError, ValueError) as error:
        return replace(line, tls_version=Attempt(trouble=_reason(error)))


def is_host(text: str) -> bool:
    """Whether this is a name or an address alone, without scheme, port or path."""
    is_ipv6 = text.count(":") > 1
    return bool(re.fullmatch(r"[0-9A-Za-z.:_-]+", text)) and (":" not in text or is_ipv6)


def _peer(plain: socket.socket, coordinator: Coordinator, world: Surroundings) -> Attempt[x509.Certificate]:
    """What the other end shows. Nothing is believed here and nothing sent: an impostor has to be seen to be named."""
    try:
        context = client_context(coordinator, world.now())
    except (ConfigurationError, OSError):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return Attempt(shown_certificate(plain, coordinator.host, context))
    except (OSError, ValueError) as error:
        return Attempt(trouble=_reason(error))


def _health_answer(secured: ssl.SSLSocket, host: str, world: Surroundings) -> Attempt[Answer]:
    """In TLS 1.3 a server refuses a client's certificate only after the handshake: it shows here."""
    name = f"[{host}]" if ":" in host else host
    response = HTTPResponse(secured, method="GET")
    try:
        secured.sendall(f"GET /health HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n".encode())
        response.begin()
        return Attempt(Answer(response.status, ahead_seconds(response.getheader("date"), world.now())))
    except (OSError, HTTPException) as error:
        return Attempt(trouble=_reason(error))
    finally:
        response.close()


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or type(error).__name__).lower().replace("_", " ")
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_SECONDS:.0f} s"
    if isinstance(error, ProxyRefused):
        return str(error)
    return getattr(error, "strerror", None) or type(error).__name__
