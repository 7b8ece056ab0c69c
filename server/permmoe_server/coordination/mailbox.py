"""Who waits for what: sites for a message, the study's process for a reply.

All of it is in memory. After a restart of the superlink a request is answered from the database as before, and only a
wait that was under way ends late, at its own bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

MOST_ANSWERED = 10_000
"""Replies that are remembered. What comes after its exchange is over is never asked for."""


class Mailbox:
    """Bells for those who wait. Its methods belong to the event loop's thread."""

    def __init__(self) -> None:
        self._bells: dict[int, asyncio.Event] = {}
        """Of the nodes that wait."""
        self._reply_bell = asyncio.Event()
        self._answered: dict[str, None] = {}
        """Messages with a whole reply that nobody has asked for yet, in the order of arrival."""

    @contextmanager
    def waits(self, node: int) -> Iterator[asyncio.Event]:
        """Yield the node's bell: it rings as soon as there is a message for the node, which waits within the block.

        A node waits once: its earlier wait ends with this one.
        """
        self.ring([node])
        bell = self._bells[node] = asyncio.Event()
        try:
            yield bell
        finally:
            if self._bells.get(node) is bell:
                del self._bells[node]

    def waiting(self) -> list[int]:
        """Return the nodes that wait for a message."""
        return list(self._bells)

    def ring(self, nodes: Iterable[int]) -> None:
        """There is a message for these nodes."""
        for node in nodes:
            if bell := self._bells.get(node):
                bell.set()

    async def wait_for_replies(self, messages: Iterable[str], seconds: float) -> list[str]:
        """Return those of the messages that have been answered; none where that does not happen within the time."""
        wanted = set(messages)
        if found := self._taken(wanted):
            return found
        self._reply_bell.clear()
        await rung(self._reply_bell, seconds)
        return self._taken(wanted)

    def answered(self, message: str) -> None:
        """The reply to this message is whole."""
        self._answered[message] = None
        if len(self._answered) > MOST_ANSWERED:
            del self._answered[next(iter(self._answered))]
        self._reply_bell.set()

    def _taken(self, wanted: set[str]) -> list[str]:
        found = [message for message in self._answered if message in wanted]
        for message in found:
            del self._answered[message]
        return found


async def rung(bell: asyncio.Event, seconds: float) -> bool:
    """Return whether a bell rings within so many seconds, as soon as it does."""
    with suppress(TimeoutError):
        await asyncio.wait_for(bell.wait(), seconds)
    return bell.is_set()
