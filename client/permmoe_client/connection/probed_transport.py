"""Connections of which the kernel finds out that their other end is gone, with a proxy on the way or without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from permmoe.runtime.silent_peer import socket_options

CONNECTED = "connection.connect_tcp.complete"
"""What httpx's `trace` calls it when a connection is there, before its first byte (its documented extensions)."""


class ProbedTransport(httpx.HTTPTransport):
    """A transport that sets the options of each connection itself: httpx's own `socket_options` get lost where a proxy
    leads through (httpcore 1.0.9), and there machines vanish as well."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "trace": _probe}
        return super().handle_request(request)


def _probe(event: str, about: Mapping[str, Any]) -> None:
    if event == CONNECTED:
        connection = about["return_value"].get_extra_info("socket")
        for option in socket_options():
            connection.setsockopt(*option)
