"""An event loop that bounds the time of TLS handshakes and counts those that fail."""

from __future__ import annotations

import asyncio
import functools
from socket import socket
from typing import Any

from permmoe_server.gateway.addresses import peer_address
from permmoe_server.gateway.refusals import Refusals


class TlsLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers give a TLS handshake a bounded time and count one that fails."""

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

    # asyncio does not report a handshake that failed; this method is where it waits for one (Python 3.11 to 3.14).
    def _make_ssl_transport(self, rawsock: socket, protocol: Any, sslcontext: Any, waiter: Any, **rest: Any) -> Any:
        waiter.add_done_callback(functools.partial(self._note_failure, peer_address(rawsock.getpeername())))
        return super()._make_ssl_transport(rawsock, protocol, sslcontext, waiter, **rest)  # type: ignore[misc]

    def _note_failure(self, peer: str, handshake: asyncio.Future[None]) -> None:
        if not handshake.cancelled() and handshake.exception() is not None:
            self._refusals.note("handshake", peer)
