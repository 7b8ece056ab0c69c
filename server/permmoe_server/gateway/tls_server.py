"""The gateway's TLS server: it accepts only clients of the federation's authority, each within a bounded handshake."""

from __future__ import annotations

import asyncio
import functools
import ssl
from pathlib import Path
from socket import socket
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette

from permmoe_server.gateway.connection_guard import GuardedConnection
from permmoe_server.gateway.peers import address_text
from permmoe_server.gateway.refusals import Refusals
from permmoe_server.gateway.rules import RULES
from permmoe_server.settings import GatewayLimits


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
        http=GuardedConnection,
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
        waiter.add_done_callback(functools.partial(self._note_failure, address_text(rawsock.getpeername())))
        return super()._make_ssl_transport(rawsock, protocol, sslcontext, waiter, **rest)  # type: ignore[misc]

    def _note_failure(self, peer: str, handshake: asyncio.Future[None]) -> None:
        if not handshake.cancelled() and handshake.exception() is not None:
            self._refusals.note(RULES["handshake"], peer)


class _GatewayServer(uvicorn.Server):
    """A server on an event loop of the gateway's own kind."""

    def run(self, sockets: list[socket] | None = None) -> None:
        state = cast(Starlette, self.config.app).state
        loop = functools.partial(_GatewayLoop, state.limits.handshake_seconds, state.refusals)
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(self.serve(sockets))
