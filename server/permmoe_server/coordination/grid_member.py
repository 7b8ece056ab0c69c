"""One superlink of several behind a study: a thread that sends what is to be sent, and fetches the replies.

A superlink that has nothing to say lets its caller wait, and one that is away lets it wait longer. Each has a thread of
its own, so that no wait is anybody else's. What crosses from thread to thread is under the condition of the grid that
they belong to (permmoe_server.coordination.joined_grid).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.superlink.grid.http_grid import HttpGrid

from permmoe_server.coordination.nonblocking_grid import NonblockingGrid, PackedContents, failed

LOG = logging.getLogger("permmoe.server")

ARRIVED_AT_ONCE = 2
"""Replies of a superlink in memory at one time: it is asked for more once there are fewer."""
LOOK_SECONDS = 1.0
"""Between two looks at who is connected."""
COME_BACK_SECONDS = 2.0
"""Between two tries to reach a superlink that is away."""
CLOSE_SECONDS = 5.0

Connect = Callable[[], AbstractContextManager[HttpGrid]]
"""Opens a connection to a superlink for a run, which is over once the connection is closed."""
Untrusting = Callable[[HttpGrid], NonblockingGrid]
"""Makes the grid over such a connection."""


@dataclass
class Sending:
    """Messages on their way to a superlink."""

    messages: Sequence[Message]
    parcels: PackedContents
    identifiers: Sequence[str] = ()
    """As NonblockingGrid.push_messages returns them, once it is over."""
    is_over: bool = False

    def end(self, identifiers: Sequence[str] | None = None) -> None:
        """It is over. Without identifiers none of the messages was sent."""
        if not self.is_over:
            self.identifiers, self.is_over = identifiers or [""] * len(self.messages), True


class GridMember:
    """A superlink of a study. All but `start` and `close` is called by who holds the condition."""

    def __init__(
        self, name: str, connect: Connect, untrusting: Untrusting, changed: threading.Condition, *, is_vital: bool
    ) -> None:
        """`is_vital`: where it cannot be reached the study ends; another one's sites are missing meanwhile."""
        self.name = name
        self.nodes: frozenset[int] = frozenset()
        """Who is connected, as this superlink says."""
        self.failure: Exception | None = None
        """Why a vital superlink is not reached any more."""
        self.has_tried = False
        """Whether it has been reached, or found to be away."""
        self.has_ended = False
        """Whether it works no more, and nothing more comes of it but what has arrived."""
        self._connect, self._untrusting, self._changed, self._is_vital = connect, untrusting, changed, is_vital
        self._sendings: deque[Sending] = deque()
        self._open: dict[str, float] = {}
        """Messages without a reply, and when they end, seconds since 1970."""
        self._wanted: frozenset[str] = frozenset()
        self._arrived: list[Message] = []
        self._is_closing = self._is_away = False
        self._look_at = 0.0
        self._thread = threading.Thread(target=self._run, name=f"superlink {name}", daemon=True)

    def start(self) -> None:
        """Begin to reach the superlink."""
        self._thread.start()

    def close(self) -> None:
        """End the run, where that does not take long."""
        with self._changed:
            self.leave()
        self._thread.join(CLOSE_SECONDS)

    def leave(self) -> None:
        """End the run as soon as nothing is under way; what is not answered then fails."""
        self._is_closing = True
        self._changed.notify_all()

    def send(self, messages: Sequence[Message], parcels: PackedContents) -> Sending:
        """Begin to send messages; one that is left sends no more."""
        sending = Sending(messages, parcels)
        if self._is_closing:
            sending.end()
        else:
            self._sendings.append(sending)
        self._changed.notify_all()
        return sending

    def want(self, identifiers: Collection[str]) -> None:
        """Fetch the replies to these messages, of those that this superlink has, and to no others."""
        self._wanted = frozenset(name for name in identifiers if name in self._open)
        self._changed.notify_all()

    def take(self) -> list[Message]:
        """Return the replies that are here."""
        arrived, self._arrived = self._arrived, []
        self._changed.notify_all()
        return arrived

    @property
    def has_arrived(self) -> bool:
        """Whether a reply is here."""
        return bool(self._arrived)

    def _run(self) -> None:
        while not self._is_closing:
            try:
                with self._connect() as connection:
                    self._serve(self._untrusting(connection))
            # A region may answer what nobody thought of: any of it is the region's trouble, and ends here.
            except Exception as error:
                with self._changed:
                    self._lose(error)
                    if self._is_vital:
                        break
                    self._changed.wait_for(lambda: self._is_closing, COME_BACK_SECONDS)
        with self._changed:
            self._give_up()
            self.has_ended = True

    def _serve(self, grid: NonblockingGrid) -> None:
        """Work until it is closed. Raises what a superlink that is away makes a grid raise."""
        replies: Iterator[Message] = iter(())
        while True:
            self._look(grid)
            with self._changed:
                self._changed.wait_for(self._has_work, LOOK_SECONDS)
                if self._is_closing:
                    return
                sending = self._sendings[0] if self._sendings else None
                wanted = self._wanted if len(self._arrived) < ARRIVED_AT_ONCE else ()
            if sending:
                self._send(grid, sending)
            elif wanted:
                if (reply := next(replies, None)) is None:
                    replies = grid.pull_messages(wanted)
                else:
                    self._arrive(reply)

    def _has_work(self) -> bool:
        return bool(self._is_closing or self._sendings or (self._wanted and len(self._arrived) < ARRIVED_AT_ONCE))

    def _look(self, grid: NonblockingGrid) -> None:
        if time.monotonic() < self._look_at:
            return
        nodes = frozenset(grid.get_node_ids())
        self._look_at = time.monotonic() + LOOK_SECONDS
        with self._changed:
            if self._is_away:
                LOG.info("region %s answers again", self.name)
            self.nodes, self.has_tried, self._is_away = nodes, True, False
            self._changed.notify_all()

    def _send(self, grid: NonblockingGrid, sending: Sending) -> None:
        """Send what is first; one that was given up meanwhile goes nowhere."""
        identifiers = None if sending.is_over else grid.push_packed(sending.messages, sending.parcels)
        with self._changed:
            self._sendings.popleft()
            if identifiers and not sending.is_over:
                now = time.time()
                self._open = {name: until for name, until in self._open.items() if now < until}
                self._open |= dict(_ends(identifiers, sending.messages))
            sending.end(identifiers)
            self._changed.notify_all()

    def _arrive(self, reply: Message) -> None:
        answered = reply.metadata.reply_to_message_id
        with self._changed:
            self._open.pop(answered, None)
            self._wanted -= {answered}
            self._arrived.append(reply)
            self._changed.notify_all()

    def _lose(self, error: Exception) -> None:
        """It does not answer, or in a way that nobody thought of."""
        if self._is_vital:
            self.failure = error
        elif not self._is_away and not self._is_closing:
            LOG.warning("region %s does not answer (%s); its sites are missing until it does", self.name, _name(error))
        self.has_tried, self._is_away, self._look_at = True, True, 0.0
        self._give_up()

    def _give_up(self) -> None:
        """Of what was sent no reply comes any more; nothing else is sent."""
        self.nodes = frozenset()
        while self._sendings:
            self._sendings.popleft().end()
        self._arrived += [failed(name, ErrorCode.NODE_UNAVAILABLE) for name in self._open]
        self._open, self._wanted = {}, frozenset()
        self._changed.notify_all()


def _ends(identifiers: Iterable[str], messages: Iterable[Message]) -> Iterator[tuple[str, float]]:
    for name, message in zip(identifiers, messages, strict=True):
        if name:
            yield name, message.metadata.created_at + message.metadata.ttl


def _name(error: Exception) -> str:
    return type(error).__name__
