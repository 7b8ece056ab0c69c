"""The public door in front of a flower-superlink on loopback: an exact list of Fleet paths passes, nothing else.

One port of the superlink also serves Flower's Control and Runtime services, where a peer without credentials can start
a run. So the door compares the path as it came over the wire, byte for byte, and sends its own copy of it upstream.

Two layers say who is there. TLS (permmoe_server.gateway.tls_server) lets in only certificates of the federation's own
authority, and the door only keys that are on the signed roster at that moment: a stranger reaches no parser but TLS's.
The superlink then checks each request's headers, signed with the same key, and which messages are that node's.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from permmoe_server.gateway.limits import HeldBytes, TokenBuckets
from permmoe_server.gateway.peers import address_text
from permmoe_server.gateway.refusals import Refusals
from permmoe_server.gateway.rules import Refused
from permmoe_server.settings import GatewayLimits

# Every path of flwr 1.41's Fleet router that a running node calls, less three. get-fab hands out code, and a hospital
# never runs code from the coordinator. register-node and unregister-node are for nodes that bring a fresh key of their
# own: here the coordinator registers the roster's keys, and no peer may add or remove one.
FLEET_PATHS = frozenset(
    b"/v1/fleet/" + name
    for name in (
        b"activate-node",
        b"deactivate-node",
        b"send-node-heartbeat",
        b"pull-messages",
        b"push-messages",
        b"get-run",
        b"pull-object",
        b"push-object",
        b"confirm-message-received",
    )
)
HEALTH_PATH = b"/health"

# RFC 9110, section 7.6.1, and what the next hop must hear from nobody but this one.
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)
_OWN_REQUEST_HEADERS = frozenset(
    b"host content-length expect forwarded x-real-ip x-forwarded-for x-forwarded-host x-forwarded-port "
    b"x-forwarded-proto".split()
)

RawHeaders = list[tuple[bytes, bytes]]


def make_gateway(upstream: str, ca: Path, limits: GatewayLimits, is_member: Callable[[bytes], bool]) -> Starlette:
    """The door as an application. `upstream` is https://127.0.0.1:PORT, whose certificate must chain to the file `ca`.

    `is_member` says whether a client's certificate (DER), which TLS has verified, is on the roster; every request asks.

    `app.state.refusals` counts what was refused. Run it with permmoe_server.gateway.tls_server, which bounds
    connections and request headers: an application never sees them. Raises ValueError for an upstream
    that is not a bare https origin.
    """
    origin = httpx.URL(upstream)
    if origin.scheme != "https" or not origin.host or origin.raw_path != b"/":
        raise ValueError(f"the upstream must look like https://127.0.0.1:8000, not {upstream!r}")
    # The bare transport: httpx's client would add headers of its own, keep cookies, and follow proxy variables.
    # Idle connections are dropped before the superlink drops them (5 s), which would show as a failed request.
    transport = httpx.AsyncHTTPTransport(
        verify=ssl.create_default_context(cafile=str(ca)),
        trust_env=False,
        limits=httpx.Limits(max_connections=limits.upstream_connections, keepalive_expiry=2.0),
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with transport:
            yield

    refusals = Refusals()
    # The door stands as middleware, before the router: a router compares decoded paths.
    door = Middleware(Door, origin=origin, transport=transport, limits=limits, refusals=refusals, is_member=is_member)
    app = Starlette(middleware=[door], lifespan=lifespan)
    app.state.limits = limits
    app.state.refusals = refusals
    return app


class _ClientGone(Exception):
    """The client has closed its connection, so that nobody waits for an answer."""


class Door:
    """Answers every HTTP request itself; only the lifespan goes on to Starlette's router."""

    def __init__(
        self,
        app: ASGIApp,
        origin: httpx.URL,
        transport: httpx.AsyncHTTPTransport,
        limits: GatewayLimits,
        refusals: Refusals,
        is_member: Callable[[bytes], bool],
    ) -> None:
        self._app, self._origin, self._transport, self._is_member = app, origin, transport, is_member
        self._limits, self._refusals = limits, refusals
        self._buckets = TokenBuckets(limits.requests_per_second, limits.request_burst, limits.sites)
        self._held = HeldBytes(limits.held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        peer = address_text(scope["client"])
        try:
            path = self._admit(scope)
            if path == HEALTH_PATH:
                await _answer(send, 200, [(b"content-type", b"text/plain")], b"ok\n")
            else:
                await self._forward(path, scope["headers"], receive, send)
        except Refused as refusal:
            rule = refusal.rule
            self._refusals.note(rule, peer, scope["method"], scope["raw_path"])
            headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
            if rule.name == "method":
                headers.append((b"allow", b"GET" if scope["raw_path"] == HEALTH_PATH else b"POST"))
            await _answer(send, rule.status, headers, f"refused: {rule.name}\n".encode())
        except _ClientGone:
            return

    def _admit(self, scope: Scope) -> bytes:
        """Check a request without its body, and return its path in this module's own spelling. Raises Refused."""
        certificate: bytes = scope["state"]["certificate"]
        # "A certificate spends a token for each request, a refused one included": hospitals may share an address.
        if not self._buckets.take(certificate):
            raise Refused("rate")
        # "The certificate's key is on the roster now."
        if not self._is_member(certificate):
            raise Refused("not_on_roster")
        # "The path as sent equals a listed one byte for byte."
        if scope["raw_path"] not in FLEET_PATHS | {HEALTH_PATH}:
            raise Refused("path")
        path: bytes = scope["raw_path"]
        # "Fleet is POST, health is GET."
        if scope["method"] != ("GET" if path == HEALTH_PATH else "POST"):
            raise Refused("method")
        # "No query string." (A lone `?` is lost before it gets here, and goes nowhere: the query is never forwarded.)
        if scope["query_string"]:
            raise Refused("query")
        # "A body that says it is too long is not read."
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if any(int(length) > self._limits.body_bytes for length in lengths):
            raise Refused("body_size")
        return path

    async def _forward(self, path: bytes, headers: RawHeaders, receive: Receive, send: Send) -> None:
        """Read the whole body, ask the superlink, pass its answer on. A slow or broken body never reaches it."""
        with (
            self._held.buffer(self._limits.body_bytes, "body_size") as add_request,
            self._held.buffer(self._limits.response_bytes, "upstream") as add_response,
        ):
            try:
                async with asyncio.timeout(self._limits.body_seconds):
                    body = await _read_body(receive, add_request)
            except TimeoutError:
                raise Refused("slow_body") from None
            request = httpx.Request(
                "POST",
                self._origin.copy_with(raw_path=path),
                headers=_end_to_end(headers, _OWN_REQUEST_HEADERS),
                content=bytes(body),
            )
            try:
                async with asyncio.timeout(self._limits.upstream_seconds):
                    response = await self._transport.handle_async_request(request)
                    try:
                        content = add_response(b"")
                        async for chunk in response.aiter_raw():
                            content = add_response(chunk)
                    finally:
                        await response.aclose()
            except TimeoutError:
                raise Refused("upstream_slow") from None
            except httpx.TransportError:
                raise Refused("upstream") from None
            await _answer(
                send, response.status_code, _end_to_end(response.headers.raw, {b"content-length"}), bytes(content)
            )


async def _read_body(receive: Receive, append: Callable[[bytes], bytearray]) -> bytearray:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        body = append(message.get("body", b""))
        if not message.get("more_body", False):
            return body


async def _answer(send: Send, status: int, headers: RawHeaders, body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


def _end_to_end(headers: Iterable[tuple[bytes, bytes]], also_dropped: frozenset[bytes] | set[bytes]) -> RawHeaders:
    """The headers meant for the far end: none that speaks of one hop, by the standard or by Connection's own list."""
    pairs = [(name.lower(), value) for name, value in headers]
    listed = {word.strip().lower() for name, value in pairs if name == b"connection" for word in value.split(b",")}
    dropped = _HOP_BY_HOP | listed | also_dropped
    return [(name, value) for name, value in pairs if name not in dropped]
