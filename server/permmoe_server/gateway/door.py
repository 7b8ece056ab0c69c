"""The public TLS door in front of a flower-superlink on loopback: an exact list of Fleet paths passes, nothing else.

One port of the superlink also serves Flower's Control and Runtime services, where a peer without credentials can start
a run. So the door compares the path as it came over the wire, byte for byte, and sends its own copy of it upstream.

Two layers say who is there. TLS lets in only certificates of the federation's own authority, and the door only keys
that are on the signed roster at that moment: a stranger reaches no parser but TLS's. The superlink then checks each
request's headers, signed with the same key, and which messages are that node's.

| rule | status | a request or connection is refused because |
|---|---|---|
| handshake | none | TLS failed: no certificate, one of another authority, an expired one, or it took too long |
| not_on_roster | 403 | its certificate's key is not on the roster (any more) |
| path, method, query | 404, 405, 400 | it is not one of `FLEET_PATHS` with POST, or /health with GET, without a query |
| body_size | 413 | its body is, or says it is, longer than `body_bytes` |
| slow_body, slow_headers | 408 | the body or the request head was not complete in time |
| slow_exchange | none | the whole exchange took too long (the client does not read): cut off |
| malformed | 400 | it is not HTTP/1.1 |
| rate | 429 | its certificate has no token left |
| connections, address_connections, busy | 503 | too many connections, or too many bytes held |
| upstream, upstream_slow | 502, 504 | the superlink is down, sent too much, or took too long |
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import ssl
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from socket import socket
from types import MappingProxyType
from typing import Any, cast

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from permmoe_server.settings import GatewayLimits

_log = logging.getLogger("permmoe.gateway")

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

STATUS_BY_RULE = MappingProxyType(
    {
        "handshake": 0,
        "not_on_roster": 403,
        "path": 404,
        "method": 405,
        "query": 400,
        "body_size": 413,
        "slow_body": 408,
        "slow_headers": 408,
        "slow_exchange": 0,
        "malformed": 400,
        "rate": 429,
        "connections": 503,
        "address_connections": 503,
        "busy": 503,
        "upstream": 502,
        "upstream_slow": 504,
    }
)

# RFC 9110, section 7.6.1, and what the next hop must hear from nobody but this one.
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)
_OWN_REQUEST_HEADERS = frozenset(
    b"host content-length expect forwarded x-real-ip x-forwarded-for x-forwarded-host x-forwarded-port "
    b"x-forwarded-proto".split()
)
_LOGGED_PATH_BYTES = 80
_LOGGED_METHOD_CHARACTERS = 16

RawHeaders = list[tuple[bytes, bytes]]


class Refusals:
    """Counts refusals by rule, and writes one line for each. The keys never change, so any thread may read them."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(STATUS_BY_RULE, 0)

    def by_rule(self) -> dict[str, int]:
        """A copy: the number of refusals under each rule since the start, zeros included."""
        return dict(self._counts)

    def note(self, rule: str, peer: str, method: str = "-", raw_path: bytes = b"-") -> None:
        """Count a refusal and log rule, status, address, method and a truncated, escaped path; never a body."""
        self._counts[rule] += 1
        path = repr(raw_path[:_LOGGED_PATH_BYTES])[2:-1] + ("..." if len(raw_path) > _LOGGED_PATH_BYTES else "")
        shown = ascii(method[:_LOGGED_METHOD_CHARACTERS])[1:-1]
        _log.warning(
            "refused rule=%s status=%d peer=%s method=%s path=%s", rule, STATUS_BY_RULE[rule], peer, shown, path
        )


class TokenBuckets:
    """One token bucket for each peer; the least recently seen one is forgotten."""

    def __init__(self, per_second: float, burst: int, peers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._peers, self._clock = per_second, burst, peers, clock
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, peer: bytes) -> bool:
        """Whether this peer had a token left, which is then spent."""
        now = self._clock()
        tokens, seen = self._buckets.pop(peer, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - seen) * self._per_second)
        self._buckets[peer] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > self._peers:
            self._buckets.popitem(last=False)
        return tokens >= 1


def make_gateway(upstream: str, ca: Path, limits: GatewayLimits, is_member: Callable[[bytes], bool]) -> Starlette:
    """The door as an application. `upstream` is https://127.0.0.1:PORT, whose certificate must chain to the file `ca`.

    `is_member` judges a client's certificate (DER), which TLS has verified; it is asked at every request.

    `app.state.refusals` counts what was refused. Run it with `serve` or `make_server`: they bound connections and
    request heads, which an application never sees. Raises ValueError for an upstream that is not a bare https origin.
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
    door = Middleware(_Door, origin=origin, transport=transport, limits=limits, refusals=refusals, is_member=is_member)
    app = Starlette(middleware=[door], lifespan=lifespan)
    app.state.limits = limits
    app.state.refusals = refusals
    return app


def make_server(
    gateway: Starlette, certificate: Path, key: Path, client_authority: Path, host: str, port: int
) -> uvicorn.Server:
    """A server for an application of `make_gateway`, not yet running: `run()` blocks until SIGTERM or `should_exit`.

    Clients have to show a certificate of the authority in the file `client_authority`.
    """
    limits: GatewayLimits = gateway.state.limits
    config = uvicorn.Config(
        gateway,
        host=host,
        port=port,
        http=_GuardedConnection,
        ws="none",
        lifespan="on",
        ssl_certfile=certificate,
        ssl_keyfile=key,
        ssl_ca_certs=str(client_authority),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
        # A peer could choose its own address with X-Forwarded-For, and so escape the limits.
        proxy_headers=False,
        server_header=False,
        date_header=False,
        access_log=False,
        log_config=None,
        # Uvicorn's warnings repeat refusals that are logged here already.
        log_level="error",
        h11_max_incomplete_event_size=limits.head_bytes,
        timeout_keep_alive=limits.idle_seconds,
        timeout_graceful_shutdown=5,
    )
    config.load()
    assert config.ssl is not None
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return _GatewayServer(config)


def serve(gateway: Starlette, certificate: Path, key: Path, client_authority: Path, host: str, port: int) -> None:
    """Serve an application of `make_gateway` over TLS until SIGTERM or SIGINT; open exchanges get 5 s to end."""
    make_server(gateway, certificate, key, client_authority, host, port).run()


class _Refused(Exception):
    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class _ClientGone(Exception):
    pass


class _Held:
    """The bytes of all bodies in memory, kept at most at a limit."""

    def __init__(self, limit: int) -> None:
        self._free = limit

    @contextmanager
    def buffer(self, longest: int, rule: str) -> Iterator[Callable[[bytes], bytearray]]:
        """A function that appends a chunk and returns the whole; _Refused(rule) past `longest` bytes."""
        whole = bytearray()
        try:
            yield functools.partial(self._append, whole, longest, rule)
        finally:
            self._free += len(whole)

    def _append(self, whole: bytearray, longest: int, rule: str, chunk: bytes) -> bytearray:
        if len(whole) + len(chunk) > longest:
            raise _Refused(rule)
        if len(chunk) > self._free:
            raise _Refused("busy")
        self._free -= len(chunk)
        whole.extend(chunk)
        return whole


class _Door:
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
        self._held = _Held(limits.held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        peer = _address(scope["client"])
        try:
            path = self._admit(scope)
            if path == HEALTH_PATH:
                await _answer(send, 200, [(b"content-type", b"text/plain")], b"ok\n")
            else:
                await self._forward(path, scope["headers"], receive, send)
        except _Refused as verdict:
            self._refusals.note(verdict.rule, peer, scope["method"], scope["raw_path"])
            headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
            if verdict.rule == "method":
                headers.append((b"allow", b"GET" if scope["raw_path"] == HEALTH_PATH else b"POST"))
            await _answer(send, STATUS_BY_RULE[verdict.rule], headers, f"refused: {verdict.rule}\n".encode())
        except _ClientGone:
            return

    def _admit(self, scope: Scope) -> bytes:
        """This module's own spelling of the path. Raises _Refused."""
        certificate: bytes = scope["state"]["certificate"]
        # "A certificate spends a token for each request, a refused one included": hospitals may share an address.
        if not self._buckets.take(certificate):
            raise _Refused("rate")
        # "The certificate's key is on the roster now."
        if not self._is_member(certificate):
            raise _Refused("not_on_roster")
        # "The path as sent equals a listed one byte for byte."
        if scope["raw_path"] not in FLEET_PATHS | {HEALTH_PATH}:
            raise _Refused("path")
        path: bytes = scope["raw_path"]
        # "Fleet is POST, health is GET."
        if scope["method"] != ("GET" if path == HEALTH_PATH else "POST"):
            raise _Refused("method")
        # "No query string." (A lone `?` is lost before it gets here, and goes nowhere: the query is never forwarded.)
        if scope["query_string"]:
            raise _Refused("query")
        # "A body that says it is too long is not read."
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if any(int(length) > self._limits.body_bytes for length in lengths):
            raise _Refused("body_size")
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
                raise _Refused("slow_body") from None
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
                raise _Refused("upstream_slow") from None
            except httpx.TransportError:
                raise _Refused("upstream") from None
            await _answer(
                send, response.status_code, _end_to_end(response.headers.raw, {b"content-length"}), bytes(content)
            )


class _GuardedConnection(H11Protocol):
    """Bounds what uvicorn leaves open: connections of an address, the time for a head, and for an exchange.

    Uvicorn's only timer runs between two requests and stops at the next byte, so one byte would hold a connection for
    ever; its `limit_concurrency` answers 503 to everybody while slow connections fill it. The h11 protocol is used,
    since httptools keeps an incomplete head of any size.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        state = cast(Starlette, self.config.app).state
        self._limits: GatewayLimits = state.limits
        self._refusals: Refusals = state.refusals
        self._deadline: asyncio.TimerHandle | None = None
        self._watched: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        verified = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.app_state = {**self.app_state, "certificate": verified}
        mine = _network(_address(self.client))
        # "At most `connections` in all, and `connections_per_address` of one address."
        if len(self.connections) > self._limits.connections:
            self._turn_away("connections")
        elif sum(_network(_address(c.client)) == mine for c in self.connections) > self._limits.connections_per_address:
            self._turn_away("address_connections")
        else:
            self._set_deadline(self._limits.head_seconds, "slow_headers")

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._deadline is None:
            self._set_deadline(self._limits.head_seconds, "slow_headers")
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow()

    def send_400_response(self, msg: str) -> None:
        self._turn_away("malformed")

    def _follow(self) -> None:
        """Give a new exchange its deadline, and drop it when the answer is out."""
        if self.transport.is_closing():
            return
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering and self._watched is not self.cycle:
            self._watched = self.cycle
            seconds = self._limits.body_seconds + self._limits.upstream_seconds + self._limits.reply_seconds
            self._set_deadline(seconds, "slow_exchange")
        elif not is_answering and self._watched is not None:
            self._watched = None
            self._clear_deadline()
            if self.conn.trailing_data[0]:
                self._set_deadline(self._limits.head_seconds, "slow_headers")

    def _set_deadline(self, seconds: float, rule: str) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(seconds, self._turn_away, rule)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _turn_away(self, rule: str) -> None:
        """Refuse below the application and close: with an answer if none has been started, at once otherwise."""
        self._clear_deadline()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering:
            self._refusals.note(rule, _address(self.client), self.scope["method"], self.scope["raw_path"])
        else:
            self._refusals.note(rule, _address(self.client))
        self.connections.discard(self)
        status = STATUS_BY_RULE[rule]
        if not status or (is_answering and self.cycle.response_started):
            self.transport.abort()
            return
        body = f"refused: {rule}\n".encode()
        head = f"HTTP/1.1 {status} Refused\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()


class _GatewayLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers give a TLS handshake a bounded time, and note one that fails."""

    def __init__(self, handshake_seconds: float, refusals: Refusals) -> None:
        super().__init__()
        self._handshake_seconds, self._refusals = handshake_seconds, refusals

    async def create_server(self, *args: Any, **kwargs: Any) -> asyncio.Server:
        bounds: dict[str, Any] = {
            "ssl_handshake_timeout": self._handshake_seconds,
            "ssl_shutdown_timeout": self._handshake_seconds,
        }
        server: asyncio.Server = await super().create_server(*args, **(kwargs | bounds))
        return server

    # asyncio tells nobody of a handshake that failed; this is where it waits for one (Python 3.11 to 3.14).
    def _make_ssl_transport(self, rawsock: socket, protocol: Any, sslcontext: Any, waiter: Any, **rest: Any) -> Any:
        waiter.add_done_callback(functools.partial(self._note_failure, _address(rawsock.getpeername())))
        return super()._make_ssl_transport(rawsock, protocol, sslcontext, waiter, **rest)  # type: ignore[misc]

    def _note_failure(self, peer: str, handshake: asyncio.Future[None]) -> None:
        if not handshake.cancelled() and handshake.exception() is not None:
            self._refusals.note("handshake", peer)


class _GatewayServer(uvicorn.Server):
    def run(self, sockets: list[socket] | None = None) -> None:
        state = cast(Starlette, self.config.app).state
        loop = functools.partial(_GatewayLoop, state.limits.handshake_seconds, state.refusals)
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(self.serve(sockets))


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


def _address(client: tuple[str, int] | None) -> str:
    return client[0] if client else "unknown"


@functools.lru_cache(maxsize=1024)
def _network(peer: str) -> str:
    """What one party surely holds: an IPv4 address, or an IPv6 network of 64 bits."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(getattr(address, "ipv4_mapped", None) or address)
