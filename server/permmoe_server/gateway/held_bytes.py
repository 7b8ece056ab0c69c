"""The gateway's limit on memory: the bytes of all bodies that it holds at one time.

A request is let in once there is room for all of its bytes, in the order of arrival, so that none that was let in waits
for another. Until then its body stays where it is: the connection's buffers fill, and the site's own machine waits.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from permmoe_server.gateway.refusals import Refused


class HeldBytes:
    """Counts the bytes of all bodies in memory and keeps them within `limit`, those of one site within `of_a_site`."""

    def __init__(self, limit: int, of_a_site: int, seconds: float) -> None:
        self._limit, self._of_a_site, self._seconds = limit, min(of_a_site, limit), seconds
        self._free = limit
        self._held: Counter[bytes] = Counter()
        """The bytes of each site that has any."""
        self._waiting: deque[Waiting] = deque()

    @asynccontextmanager
    async def room(self, site: bytes, size: int) -> AsyncIterator[Room]:
        """Wait until so many bytes of a site's exchange find room; it is given back when the block is left.

        Raises Refused where that takes too long. A size above a site's limit counts as that.
        """
        size = min(size, self._of_a_site)
        await self._enter(site, size)
        room = Room(self, site, size)
        try:
            yield room
        finally:
            self.give_back(site, room.size)

    async def _enter(self, site: bytes, size: int) -> None:
        waiting = Waiting(site, size)
        self._waiting.append(waiting)
        self._let_in()
        try:
            async with asyncio.timeout(self._seconds):
                await waiting.let_in.wait()
        except BaseException as error:
            if waiting.let_in.is_set():
                self.give_back(site, size)
            else:
                self._waiting.remove(waiting)
                self._let_in()
            if isinstance(error, TimeoutError):
                raise Refused("busy") from None
            raise

    def more(self, site: bytes, size: int) -> None:
        """Take so many more bytes for an exchange that was let in. Raises Refused where they find no room at once."""
        if not self._fits(site, size):
            raise Refused("busy")
        self._take(site, size)

    def give_back(self, site: bytes, size: int) -> None:
        """An exchange that was let in does not need so many of its bytes any more."""
        self._free += size
        self._held[site] -= size
        if not self._held[site]:
            del self._held[site]
        self._let_in()

    def _fits(self, site: bytes, size: int) -> bool:
        return size <= self._free and self._held[site] + size <= self._of_a_site

    def _take(self, site: bytes, size: int) -> None:
        self._free -= size
        self._held[site] += size

    def _let_in(self) -> None:
        """Let in who waits, in order. Who waits for its own site's bytes holds up nobody else."""
        still: deque[Waiting] = deque()
        while self._waiting:
            one = self._waiting.popleft()
            if self._fits(one.site, one.size):
                self._take(one.site, one.size)
                one.let_in.set()
                continue
            still.append(one)
            if one.size > self._free:
                break
        self._waiting.extendleft(reversed(still))


class Waiting:
    """An exchange that waits for room."""

    def __init__(self, site: bytes, size: int) -> None:
        self.site, self.size = site, size
        self.let_in = asyncio.Event()


class Room:
    """The bytes of one exchange: `size` are set aside for it, and its bodies fill them."""

    def __init__(self, held: HeldBytes, site: bytes, size: int) -> None:
        self._held, self._site, self.size = held, site, size
        self._filled = 0

    def add(self, body: bytearray, chunk: bytes, longest: int, rule: str) -> None:
        """Append a chunk to a body. Raises Refused under `rule` past `longest` bytes, under `busy` without room."""
        if len(body) + len(chunk) > longest:
            raise Refused(rule)
        beyond = self._filled + len(chunk) - self.size
        if beyond > 0:
            self._held.more(self._site, beyond)
            self.size += beyond
        self._filled += len(chunk)
        body.extend(chunk)

    def close(self) -> None:
        """No more bytes come: what was set aside for more is given back."""
        self._held.give_back(self._site, self.size - self._filled)
        self.size = self._filled
