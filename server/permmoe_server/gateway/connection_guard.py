"""Limits on connections, below the application: how many are open, and how long each may take."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from permmoe.runtime.silent_peer import socket_options
from permmoe_server.gateway.addresses import peer_address, peer_network
from permmoe_server.gateway.refusals import Refusals, refusal_body
from permmoe_server.gateway.rules import GATEWAY_RULES
from permmoe_server.settings import GatewayLimits


class GuardedConnection(H11Protocol):
    """Bounds what uvicorn leaves open: connections of an address, the time for a head, and for an exchange.

    Uvicorn's only timer runs between two requests and stops at the next byte, so one byte would hold a connection for
    ever; its `limit_concurrency` answers 503 to every client while slow connections fill it. The h11 protocol is used,
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
        for option in socket_options():
            transport.get_extra_info("socket").setsockopt(*option)
        own_network = peer_network(peer_address(self.client))
        # "At most `connections` in all, and `connections_per_address` of one address."
        if len(self.connections) > self._limits.connections:
            self._turn_away("connections")
        elif self._connections_of(own_network) > self._limits.connections_per_address:
            self._turn_away("address_connections")
        else:
            self._set_deadline(self._limits.head_seconds, "slow_headers")

    def _connections_of(self, network: str) -> int:
        return sum(peer_network(peer_address(connection.client)) == network for connection in self.connections)

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
            self._set_deadline(self._limits.exchange_seconds, "slow_exchange")
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
            self._refusals.note(rule, peer_address(self.client), self.scope["method"], self.scope["raw_path"])
        else:
            self._refusals.note(rule, peer_address(self.client))
        self.connections.discard(self)
        status = GATEWAY_RULES[rule].status
        if status is None or (is_answering and self.cycle.response_started):
            self.transport.abort()
            return
        body = refusal_body(rule)
        head = f"HTTP/1.1 {status} Refused\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()
