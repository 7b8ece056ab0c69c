"""Turns of sites that wait for a message: a round's messages go to as many sites at a time as a superlink serves.

Hundreds of sites that fetch at once wait for each other longer than a request may take, and ask again for what was
already on its way, until nobody gets anything. Who waits for a turn keeps its open request, which costs nothing.
"""

from __future__ import annotations

import asyncio


class Turns:
    """At most `most` sites are told of a message and have not fetched it.

    A turn that nobody uses ends after `seconds`. The methods belong to the event loop's thread.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._places, self._seconds = asyncio.Semaphore(most), seconds
        self._taken: dict[int, asyncio.TimerHandle] = {}
        """The nodes whose turn it is, and what ends a turn that nobody uses."""

    async def take(self, node: int, seconds: float) -> bool:
        """Wait for the node's turn, in the order of asking; return whether it came within so many seconds."""
        self.end(node)
        try:
            async with asyncio.timeout(seconds):
                await self._places.acquire()
        except TimeoutError:
            return False
        # A second request of the same node may have had its turn meanwhile.
        self.end(node)
        self._taken[node] = asyncio.get_running_loop().call_later(self._seconds, self.end, node)
        return True

    def end(self, node: int) -> None:
        """The node has what it came for, or there is nothing for it."""
        if timer := self._taken.pop(node, None):
            timer.cancel()
            self._places.release()
