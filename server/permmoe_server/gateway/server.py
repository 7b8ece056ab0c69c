"""The gateway's server: TLS with client certificates around the door, over guarded connections."""

from __future__ import annotations

import asyncio
import functools
import ssl
from pathlib import Path
from socket import socket
from typing import cast

import uvicorn
from starlette.applications import Starlette

from permmoe_server.gateway.connection_guard import GuardedConnection
from permmoe_server.gateway.tls_loop import TlsLoop
from permmoe_server.settings import GatewayLimits


def make_server(
    gateway: Starlette, certificate: Path, key: Path, client_authority: Path, host: str, port: int
) -> uvicorn.Server:
    """Return a server for an application of `make_gateway` that does not run yet.

    Its `run()` blocks until SIGTERM or `should_exit`. Clients have to show a certificate of the authority in
    the file `client_authority`.
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
        # Sites compare their clocks with it.
        date_header=True,
        access_log=False,
        log_config=None,
        # Uvicorn's warnings repeat refusals that are logged here already.
        log_level="error",
        h11_max_incomplete_event_size=limits.head_bytes,
        timeout_keep_alive=limits.idle_seconds,
        # Sites that wait for a message keep exchanges open for as long as they are let.
        timeout_graceful_shutdown=2,
    )
    config.load()
    assert config.ssl is not None
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return _GatewayServer(config)


def serve(gateway: Starlette, certificate: Path, key: Path, client_authority: Path, host: str, port: int) -> None:
    """Serve an application of `make_gateway` over TLS until SIGTERM or SIGINT; open exchanges get 2 s to end."""
    make_server(gateway, certificate, key, client_authority, host, port).run()


class _GatewayServer(uvicorn.Server):
    def run(self, sockets: list[socket] | None = None) -> None:
        state = cast(Starlette, self.config.app).state
        loop = functools.partial(TlsLoop, state.limits.handshake_seconds, state.refusals)
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(self.serve(sockets))
