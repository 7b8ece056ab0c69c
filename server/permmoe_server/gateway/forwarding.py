"""Forwarding of an admitted request to the superlink: read its body, send a copy upstream, return the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import httpx
from starlette.types import Receive, Send

from permmoe_server.coordination.local_socket import ORIGIN
from permmoe_server.gateway.asker import AskerGone, unless_gone
from permmoe_server.gateway.held_bytes import HeldBytes
from permmoe_server.gateway.refusals import Refused
from permmoe_server.gateway.upstream import Upstream
from permmoe_server.settings import GatewayLimits

RawHeaders = list[tuple[bytes, bytes]]

# RFC 9110, section 7.6.1, and the headers that only this hop may set for the next one.
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)
_OWN_REQUEST_HEADERS = frozenset(
    b"host content-length expect forwarded x-real-ip x-forwarded-for x-forwarded-host x-forwarded-port "
    b"x-forwarded-proto".split()
)


class Forwarder:
    """Sends requests to the superlink over `upstream`, which the owner opens and closes."""

    def __init__(self, upstream: Upstream, limits: GatewayLimits) -> None:
        self._origin = httpx.URL(ORIGIN)
        self._upstream, self._limits = upstream, limits
        self._held = HeldBytes(limits.held_bytes)

    async def forward(self, path: bytes, site: bytes, headers: RawHeaders, receive: Receive, send: Send) -> None:
        """Read the whole body, send it to the superlink and return its answer to the client, whose certificate is
        `site`.

        A slow or incomplete body never reaches the superlink, which learns of a client that goes away. Raises Refused
        before anything is sent to the client, and AskerGone.
        """
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
            response, content = await unless_gone(self._ask(site, request, add_response), receive)
            await send_answer(
                send, response.status_code, _end_to_end(response.headers.raw, {b"content-length"}), bytes(content)
            )

    async def _ask(
        self, site: bytes, request: httpx.Request, append: Callable[[bytes], bytearray]
    ) -> tuple[httpx.Response, bytearray]:
        """Return the superlink's answer and its body. Raises Refused."""
        try:
            async with asyncio.timeout(self._limits.upstream_seconds):
                response = await (await self._upstream.of(site)).handle_async_request(request)
                try:
                    content = append(b"")
                    async for chunk in response.aiter_raw():
                        content = append(chunk)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise Refused("upstream_slow") from None
        except httpx.TransportError:
            raise Refused("upstream") from None
        return response, content


async def send_answer(send: Send, status: int, headers: RawHeaders, body: bytes) -> None:
    """Send a whole HTTP answer; its content-length is added to `headers`."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def _read_body(receive: Receive, append: Callable[[bytes], bytearray]) -> bytearray:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise AskerGone
        body = append(message.get("body", b""))
        if not message.get("more_body", False):
            return body


def _end_to_end(headers: Iterable[tuple[bytes, bytes]], also_dropped: frozenset[bytes] | set[bytes]) -> RawHeaders:
    """Return the headers for the far end: none that concerns one hop, by the standard or by Connection's own list."""
    pairs = [(name.lower(), value) for name, value in headers]
    listed = {word.strip().lower() for name, value in pairs if name == b"connection" for word in value.split(b",")}
    dropped = _HOP_BY_HOP | listed | also_dropped
    return [(name, value) for name, value in pairs if name not in dropped]
