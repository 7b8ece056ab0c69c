"""Questions to sites over Flower's Grid, and their answers. Every wait is bounded; what went wrong is a rule's name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from permmoe_server.protocol.acceptance import RejectedReply

POLL_SECONDS = 0.1
PULL_AT_ONCE = 8
"""Replies that are in memory together, at most."""


@runtime_checkable
class MessageGrid(Protocol):
    """What the protocol needs of Flower's Grid."""

    def get_node_ids(self) -> Iterable[int]:
        """Nodes that are connected."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; the identifiers of the messages."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to these messages that are there now; it must not wait for any."""


@dataclass(frozen=True)
class Clock:
    """Time as the protocol sees it: monotonic seconds, and a pause of so many."""

    now: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep


SYSTEM_CLOCK = Clock()

SiteOf = Callable[[], Mapping[int, str] | None]
"""Which node is which site, as it is now; None where nobody says, and a reply's own word is taken for it."""


def exchange(
    grid: MessageGrid,
    contents: Mapping[int, RecordDict],
    message_type: str,
    group: str,
    deadline_seconds: float,
    clock: Clock,
) -> Iterator[tuple[int, Message | None]]:
    """Send each node its content, and yield (node, reply) in the order of arrival.

    A node that is silent until the deadline comes last, with None. Replies are matched by the message that they answer:
    the error that Flower makes for a lost node names the coordinator as its sender.
    """
    deadline = clock.now() + deadline_seconds
    nodes: dict[str, int] = {}
    unsent: list[int] = []
    for node, content in contents.items():
        message = Message(content, node, message_type, ttl=deadline_seconds, group_id=group)
        # One at a time: where a message cannot be stored, some grids return None for it and some nothing.
        identifiers = [identifier for identifier in grid.push_messages([message]) if identifier]
        nodes |= dict.fromkeys(identifiers, node)
        unsent += [] if identifiers else [node]
    waiting = dict(nodes)
    while waiting and clock.now() < deadline:
        n_waiting = len(waiting)
        for identifiers in _slices(list(waiting), PULL_AT_ONCE):
            for reply in grid.pull_messages(identifiers):
                answered = reply.metadata.reply_to_message_id
                if answered in nodes:
                    waiting.pop(answered, None)
                    yield nodes[answered], reply
        if len(waiting) == n_waiting:
            clock.pause(POLL_SECONDS)
    for node in sorted([*unsent, *waiting.values()]):
        yield node, None


def content_of(message: Message | None) -> RecordDict:
    """A reply's content. Raises RejectedReply for silence or an error, of which only the type is kept."""
    if message is None:
        raise RejectedReply("no_reply")
    if message.has_error():
        raise RejectedReply(error_type(message.error))
    return message.content


def connected(grid: MessageGrid, sites: Mapping[int, str] | None) -> list[int]:
    """Nodes that are online and, where that is known, a site."""
    return [node for node in grid.get_node_ids() if sites is None or node in sites]


def wait_for_sites(grid: MessageGrid, min_sites: int, deadline_seconds: float, clock: Clock, site_of: SiteOf) -> None:
    """Return once enough sites are connected, or at the deadline: the round then fails by its quorum."""
    deadline = clock.now() + deadline_seconds
    while len(connected(grid, site_of())) < min_sites and clock.now() < deadline:
        clock.pause(POLL_SECONDS)


def error_type(error: Error) -> str:
    """The name of the exception where the site sent just that, else Flower's name of the error's code.

    An error's text may name a patient or a path; whatever is not a single word is dropped unread.
    """
    reason = error.reason or ""
    if reason.isidentifier() and len(reason) <= 64:
        return reason
    names = {code: name for name, code in vars(ErrorCode).items() if isinstance(code, int)}
    return names.get(error.code, "UNKNOWN")


def _slices(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
