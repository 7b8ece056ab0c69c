"""Several superlinks as one grid: that of the coordinator and those of its regions.

A node belongs to one of them, and nobody but that one is asked who is connected there, is given messages for it, or is
believed what it replies. A region that is away is like its sites being away; the coordinator's own superlink is not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from types import TracebackType

from flwr.app import Message
from flwr.superlink.grid.http_grid import HttpGrid

from permmoe_server.coordination.grid_member import Connect, GridMember
from permmoe_server.coordination.nonblocking_grid import NodeKeys, NonblockingGrid, packed
from permmoe_server.protocol.reply_sizes import LargestReply

OWN = ""
"""The coordinator's own superlink, in the place of a region's name."""
FIRST_SECONDS = 10.0
"""How long a study waits in the beginning for regions that do not answer."""
SEND_SECONDS = 30.0
"""How long a region may take for what it is sent in one go."""
REPLY_SECONDS = 2.0
"""How long a question for replies waits for one."""

Homes = Callable[[], Mapping[int, str]]
"""Returns the region of each node, or OWN, at this moment."""


class JoinedGrid:
    """What permmoe_server.protocol.rounds needs of a grid, over several superlinks."""

    def __init__(
        self, own: HttpGrid, regions: Mapping[str, Connect], largest: LargestReply, homes: Homes, keys: NodeKeys
    ) -> None:
        self._homes, self._changed = homes, threading.Condition()

        def member(name: str, connect: Connect, *, is_vital: bool) -> GridMember:
            joined = partial(NonblockingGrid, largest=largest, keys=keys)
            return GridMember(name, connect, joined, self._changed, is_vital=is_vital)

        self._own = member(OWN, lambda: nullcontext(own), is_vital=True)
        others = [member(name, connect, is_vital=False) for name, connect in regions.items()]
        self._members = [self._own, *others]

    def __enter__(self) -> JoinedGrid:
        """Reach the superlinks."""
        for member in self._members:
            member.start()
        with self._changed:
            self._changed.wait_for(lambda: all(member.has_tried for member in self._members), FIRST_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self._members:
            member.close()

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that are connected."""
        homes = self._homes()
        with self._changed:
            self._check()
            return [node for member in self._members for node in sorted(member.nodes) if homes.get(node) == member.name]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages and return their identifiers, an empty one where a message could not be stored in time."""
        sent, homes = list(messages), self._homes()
        parcels = packed(message.content for message in sent)
        by_region: dict[str | None, list[Message]] = {}
        for message in sent:
            by_region.setdefault(homes.get(message.metadata.dst_node_id), []).append(message)
        with self._changed:
            sendings = {m.name: m.send(by_region[m.name], parcels) for m in self._members if m.name in by_region}
            self._changed.wait_for(lambda: self._own.failure or all(s.is_over for s in sendings.values()), SEND_SECONDS)
            if OWN in sendings:
                self._changed.wait_for(lambda: self._own.failure or sendings[OWN].is_over)
            self._check()
            for sending in sendings.values():
                sending.end()
        identifiers = {
            id(message): name
            for sending in sendings.values()
            for message, name in zip(sending.messages, sending.identifiers, strict=True)
        }
        return [identifiers.get(id(message), "") for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Yield the replies that are whole; where there are none, wait for a moment for one."""
        names = set(message_ids)
        with self._changed:
            for member in self._members:
                member.want(names)
            self._changed.wait_for(
                lambda: self._own.failure or any(member.has_arrived for member in self._members), REPLY_SECONDS
            )
            self._check()
            arrived = [reply for member in self._members for reply in member.take()]
        yield from arrived

    def _check(self) -> None:
        """Raise what ended the connection to the coordinator's own superlink."""
        if self._own.failure:
            raise self._own.failure
