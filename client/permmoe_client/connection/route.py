"""The way to the coordinator: straight, or through a proxy of the hospital that passes TLS on unopened (CONNECT).

The preflight and the running client both ask this module, so that a check goes the way that the client goes. The
settings come first (`coordinator.proxy` of site.yaml), then the environment's HTTPS_PROXY, ALL_PROXY and NO_PROXY.
"""

from __future__ import annotations

import base64
import socket
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from urllib.parse import unquote, urlsplit

from permmoe.errors import ConfigurationError
from permmoe_client.site import NO_PROXY, Coordinator

DEFAULT_PORT = 3128
"""Of a proxy whose address names none, as most proxies have it."""


@dataclass(frozen=True)
class Proxy:
    """A proxy on the way; its text names no password."""

    host: str
    port: int
    named_by: str
    """The setting or the variable that names it."""
    user: str | None = None
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return _address(self.host, self.port)

    @property
    def authorization(self) -> str | None:
        """The value of Proxy-Authorization; None where no user is named."""
        if self.user is None:
            return None
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


class ProxyRefused(OSError):
    """The proxy answered, and let nothing through. The text says why and repeats nothing that it sent."""


def proxy_for(coordinator: Coordinator, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy that leads to the coordinator; None for the straight way. Raises ConfigurationError."""
    if coordinator.proxy == NO_PROXY:
        return None
    if coordinator.proxy:
        return _parsed(coordinator.proxy, "coordinator.proxy")
    variables = {name.lower(): value for name, value in environment.items() if value}
    is_exempt = urllib.request.proxy_bypass_environment(coordinator.host, {"no": variables.get("no_proxy", "")})  # type: ignore[attr-defined]
    named_by = next((name for name in ("https_proxy", "all_proxy") if name in variables), None)
    return None if is_exempt or named_by is None else _parsed(variables[named_by], named_by.upper())


def open_way(
    coordinator: Coordinator, proxy: Proxy | None, connect: Callable[[str, int, float], socket.socket], seconds: float
) -> socket.socket:
    """A socket that leads to the coordinator; `connect` takes a host, a port and seconds. Raises OSError."""
    if proxy is None:
        return connect(coordinator.host, coordinator.port, seconds)
    plain = connect(proxy.host, proxy.port, seconds)
    try:
        tunnel(plain, proxy, coordinator.host, coordinator.port)
    except OSError:
        plain.close()
        raise
    return plain


def tunnel(plain: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    """Ask the proxy at the other end of a socket to lead to a host. Raises ProxyRefused, or another OSError."""
    where = _address(host, port)
    lines = [f"CONNECT {where} HTTP/1.1", f"host: {where}"]
    if proxy.authorization:
        lines.append(f"proxy-authorization: {proxy.authorization}")
    plain.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = HTTPResponse(plain, method="CONNECT")
    # Unbuffered: what the coordinator sends after the proxy's answer is for TLS.
    answer.fp = plain.makefile("rb", buffering=0)  # type: ignore[assignment]
    try:
        answer.begin()
    except HTTPException:
        raise ProxyRefused(f"the proxy {proxy} does not answer as a proxy does") from None
    if answer.status != 200:
        raise ProxyRefused(refusal(proxy, answer.status))


def refusal(proxy: Proxy, status: int) -> str:
    """What it means that a proxy answers with this status, and what to do."""
    match status:
        case 407 if proxy.user is None:
            reason = "it asks for a user and a password: name them, as http://user:password@proxy:3128"
        case 407:
            reason = "it does not take this user and password"
        case 403:
            reason = "it does not let this machine connect to the coordinator: ask its administrator to allow that"
        case 502 | 503 | 504:
            reason = "it cannot reach the coordinator itself"
        case _:
            reason = "it leads nowhere"
    return f"the proxy {proxy} answers with status {status}: {reason}"


def _parsed(address: str, named_by: str) -> Proxy:
    # The address is not repeated in an error: it may hold a password.
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError:
        raise ConfigurationError(f"{named_by} is no address of a proxy; write http://proxy:3128") from None
    if parts.scheme != "http":
        raise ConfigurationError(
            f"{named_by} names a proxy of the kind {parts.scheme!r}; only one that is spoken to by HTTP will do, as "
            "http://proxy:3128 (what goes through it is encrypted all the same)"
        )
    if not host:
        raise ConfigurationError(f"{named_by} is no address of a proxy; write http://proxy:3128")
    user = None if parts.username is None else unquote(parts.username)
    return Proxy(host, port, named_by, user, unquote(parts.password or ""))


def _address(host: str, port: int) -> str:
    """Host and port in one text; an IPv6 address stands in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
