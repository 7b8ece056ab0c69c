"""Connections to the superlink: each site has a few of its own, so that one that waits takes nobody else's."""

from __future__ import annotations

from collections import OrderedDict
from types import TracebackType

import httpx

from permmoe_server.coordination.local_socket import IDLE_SECONDS
from permmoe_server.settings import GatewayLimits


class Upstream:
    """A bare transport for each site; httpx's client would add headers of its own, keep cookies, and follow proxy
    variables. A transport looks at all its connections at every request, so that one for all sites would take time
    with the square of their number.

    `path` is the address of the superlink's socket. The least recently seen of more than `limits.sites` is closed.
    """

    def __init__(self, path: str, limits: GatewayLimits) -> None:
        self._path, self._most_sites = path, limits.sites
        self._limits = httpx.Limits(max_connections=limits.upstream_connections, keepalive_expiry=IDLE_SECONDS)
        self._transports: OrderedDict[bytes, httpx.AsyncHTTPTransport] = OrderedDict()

    async def __aenter__(self) -> Upstream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._transports:
            await self._transports.popitem()[1].aclose()

    async def of(self, site: bytes) -> httpx.AsyncHTTPTransport:
        """Return the transport of the site with this certificate."""
        if (found := self._transports.get(site)) is None:
            found = httpx.AsyncHTTPTransport(uds=self._path, trust_env=False, limits=self._limits)
            self._transports[site] = found
            if len(self._transports) > self._most_sites:
                await self._transports.popitem(last=False)[1].aclose()
        else:
            self._transports.move_to_end(site)
        return found
