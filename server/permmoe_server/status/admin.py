"""The coordinator's admin port: a page, a health check, metrics and the status as JSON. It reads; it changes nothing.

It is meant for loopback and has no login. What a web page of a stranger could do to it from the coordinator's own
browser is refused: a foreign `Host` (DNS rebinding), any method but GET and HEAD, frames, scripts.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from datetime import UTC, datetime

import uvicorn
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from permmoe.errors import ConfigurationError
from permmoe.runtime.text import size_text
from permmoe_server.status.board import StatusBoard
from permmoe_server.status.coordinator_status import HEALTHY_PHASES, CoordinatorStatus, status_json
from permmoe_server.status.metrics import registry_of
from permmoe_server.status.page import STYLE_HASH, page

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
STALE_SECONDS = 60.0
"""A coordinator that has not updated its board for this long is stuck."""
SECURITY_HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; style-src '{STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def make_admin(board: StatusBoard, hosts: Collection[str] = (), stale_seconds: float = STALE_SECONDS) -> Starlette:
    """Return the application of the admin port.

    It answers to the names of loopback and to `hosts`, written as in a URL without port. `/health` is 200 while the
    study waits, runs, is stopped or has finished. It is 503 while the coordinator starts, while the study is stalled,
    once it failed, and when the board has not been updated for `stale_seconds` or
    the server's certificate has ended. Its first line is the phase, `stale` or `certificate-expired`.
    """
    registry = registry_of(board.snapshot)

    def status_page(_: Request) -> Response:
        return HTMLResponse(page(board.snapshot(), datetime.now(UTC)))

    def status(_: Request) -> Response:
        return Response(status_json(board.snapshot()), media_type="application/json")

    def health(_: Request) -> Response:
        return PlainTextResponse(health_text(board, stale_seconds), 200 if is_healthy(board, stale_seconds) else 503)

    def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return Starlette(
        routes=[
            Route("/", status_page),
            Route("/status.json", status),
            Route("/health", health),
            Route("/metrics", metrics),
        ],
        middleware=[Middleware(_Guard, hosts=LOOPBACK_NAMES | {host.lower() for host in hosts})],
    )


def is_healthy(board: StatusBoard, stale_seconds: float = STALE_SECONDS) -> bool:
    """Whether the coordinator does what it is there for: nobody has to look at it."""
    status = board.snapshot()
    return board.age_seconds() <= stale_seconds and status.phase in HEALTHY_PHASES and not _has_expired(status)


def health_text(board: StatusBoard, stale_seconds: float = STALE_SECONDS) -> str:
    """The phase, or what is worse than any; then what the study waits for, and facts about the machine."""
    status = board.snapshot()
    word = "stale" if board.age_seconds() > stale_seconds else status.phase
    lines: list[str] = ["certificate-expired" if _has_expired(status) else word]
    if status.detail:
        lines.append(status.detail)
    if machine := status.machine:
        lines.append(f"version: {machine.version}")
        lines.append(f"server certificate ends: {machine.server_end:%Y-%m-%d}")
        lines.append(f"disk: {size_text(machine.free_bytes)} free")
    return "".join(f"{line}\n" for line in lines)


def _has_expired(status: CoordinatorStatus) -> bool:
    return status.machine is not None and status.machine.server_end <= datetime.now(UTC)


def serve_admin(app: Starlette, host: str = "127.0.0.1", port: int = 8090) -> uvicorn.Server:
    """Return a server that listens already.

    The caller's thread calls `run()`, and any thread ends it with `should_exit`. With port 0 the system chooses one:
    `server.config.port`. Raises ConfigurationError where it cannot listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigurationError(
            f"the status page cannot listen at {host}, port {port} ({error.strerror}); choose another admin port"
        ) from None
    config = uvicorn.Config(
        app,
        host=host,
        port=listening.getsockname()[1],
        ws="none",
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="error",
        limit_concurrency=64,
        timeout_graceful_shutdown=2,
    )
    return _AdminServer(config, listening)


class _AdminServer(uvicorn.Server):
    """A server whose socket is bound before it runs: uvicorn would end its thread silently where it cannot bind."""

    def __init__(self, config: uvicorn.Config, listening: socket.socket) -> None:
        super().__init__(config)
        self._listening = listening

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        super().run(sockets or [self._listening])


class _Guard:
    """Checks each request before it reaches a route, and adds the security headers to each answer, errors included."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        app = self._app if scope["type"] != "http" else self._refusal(scope) or self._app
        await app(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        # "One Host header, with a name that this page answers to": another name that resolves to loopback is refused.
        named = Headers(scope=scope).getlist("host")
        if len(named) != 1 or _without_port(named[0]).lower() not in self._hosts:
            return PlainTextResponse("this is not the host that was asked for\n", 421)
        # "Nothing but GET, and HEAD, which asks for its answer without the body."
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("only GET and HEAD\n", 405, headers={"allow": "GET, HEAD"})
        return None


def _without_port(host: str) -> str:
    """Return the host of a Host header; an IPv6 address keeps its brackets."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
