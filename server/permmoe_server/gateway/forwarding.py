"""Forwarding of an admitted request to the superlink: read its body, send a copy upstream, return the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import httpx
from starlette.types import Receive, Send

from permmoe.federated.message_paths import OBJECTS
from permmoe_server.coordination.local_socket import ORIGIN
from permmoe_server.gateway.asker import AskerGone, unless_gone
from permmoe_server.gateway.held_bytes import HeldBytes, Room
from permmoe_server.gateway.refusals import Refused
from permmoe_server.gateway.upstream import Upstream
from permmoe_server.settings import GatewayLimits

RawHeaders = list[tuple[bytes, bytes]]

SHORT_ANSWER_BYTES = 64 << 10
"""An answer to anything but a request for a message's objects."""

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
        # A site's own exchanges hold no more than one of the longest, however many connections it opens.
        self._held = HeldBytes(limits.held_bytes, limits.body_bytes + limits.response_bytes, limits.room_seconds)

    async def forward(self, path: bytes, site: bytes, headers: RawHeaders, receive: Receive, send: Send) -> None:
        """Read the whole body, send it to the superlink and return its answer to the client, whose certificate is
        `site`.

        The body is read once there is room for all of it and for the answer. A slow or incomplete one never reaches the
        superlink, which learns of a client that goes away. Raises Refused before anything is sent to the client, and
        AskerGone.
        """
        expected = self._limits.response_bytes if path == OBJECTS.encode() else SHORT_ANSWER_BYTES
        async with self._held.room(site, _announced(headers, self._limits.body_bytes) + expected) as room:
            try:
                async with asyncio.timeout(self._limits.body_seconds):
                    body = await _read_body(receive, self._limits.body_bytes, room)
            except TimeoutError:
                raise Refused("slow_body") from None
            request = httpx.Request(
                "POST",
                self._origin.copy_with(raw_path=path),
                headers=_end_to_end(headers, _OWN_REQUEST_HEADERS),
                content=bytes(body),
            )
            response, content = await unless_gone(self._ask(site, request, room), receive)
            room.close()
            await send_answer(
                send, response.status_code, _end_to_end(response.headers.raw, {b"content-length"}), bytes(content)
            )

    async def _ask(self, site: bytes, request: httpx.Request, room: Room) -> tuple[httpx.Response, bytearray]:
        """Return the superlink's answer and its body. Raises Refused."""
        try:
            async with asyncio.timeout(self._limits.upstream_seconds):
                response = await (await self._upstream.of(site)).handle_async_request(request)
                try:
                    content = bytearray()
                    async for chunk in response.aiter_raw():
                        room.add(content, chunk, self._limits.response_bytes, "upstream")
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


async def _read_body(receive: Receive, longest: int, room: Room) -> bytearray:
    body, has_more = bytearray(), True
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise AskerGone
        room.add(body, message.get("body", b""), longest, "body_size")
        has_more = message.get("more_body", False)
    return body


def _announced(headers: RawHeaders, longest: int) -> int:
    """Return how long a request's body says that it is; the longest that may be where it does not say."""
    lengths = [int(value) for name, value in headers if name == b"content-length"]
    return min(lengths[0], longest) if lengths else longest


def _end_to_end(headers: Iterable[tuple[bytes, bytes]], also_dropped: frozenset[bytes] | set[bytes]) -> RawHeaders:
    """Return the headers for the far end: none that concerns one hop, by the standard or by Connection's own list."""
    pairs = [(name.lower(), value) for name, value in headers]
    listed = {word.strip().lower() for name, value in pairs if name == b"connection" for word in value.split(b",")}
    dropped = _HOP_BY_HOP | listed | also_dropped
    return [(name, value) for name, value in pairs if name not in dropped]
