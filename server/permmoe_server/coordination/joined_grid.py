"""Several superlinks as one grid: that of the coordinator and those of its regions.

A node belongs to one of them, and nobody but that one is asked who is connected there, is given messages for it, or is
believed what it replies. A region that is away is like its sites being away; the coordinator's own superlink is not.
Regions may be added and removed meanwhile: each time that somebody asks who is connected, those that there are count.
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
Regions = Callable[[], Mapping[str, Connect]]
"""Returns how to reach each region that there is at this moment."""


class JoinedGrid:
    """What permmoe_server.protocol.rounds needs of a grid, over several superlinks."""

    def __init__(self, own: HttpGrid, regions: Regions, largest: LargestReply, homes: Homes, keys: NodeKeys) -> None:
        self._regions, self._homes, self._changed = regions, homes, threading.Condition()
        self._untrusting = partial(NonblockingGrid, largest=largest, keys=keys)
        self._own = self._member(OWN, lambda: nullcontext(own), is_vital=True)
        self._members = [self._own]

    def __enter__(self) -> JoinedGrid:
        """Reach the superlinks."""
        self._own.start()
        self._look_for_regions()
        with self._changed:
            self._changed.wait_for(lambda: all(member.has_tried for member in self._members), FIRST_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self._members:
            member.close()

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that are connected, of the regions that there are."""
        self._look_for_regions()
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

    def _look_for_regions(self) -> None:
        """Begin to reach regions that were added, without waiting for one, and leave those that were removed."""
        found = self._regions()
        with self._changed:
            # One that was left is gone once it has ended, and what it still had to tell was taken.
            there = [member for member in self._members if not member.has_ended or member.has_arrived]
            for member in there:
                if member is not self._own and member.name not in found:
                    member.leave()
            names = {member.name for member in there}
            added = [self._member(name, connect) for name, connect in found.items() if name not in names]
            self._members = sorted([*there, *added], key=lambda member: member.name)
        for member in added:
            member.start()

    def _member(self, name: str, connect: Connect, *, is_vital: bool = False) -> GridMember:
        return GridMember(name, connect, self._untrusting, self._changed, is_vital=is_vital)

    def _check(self) -> None:
        """Raise what ended the connection to the coordinator's own superlink."""
        if self._own.failure:
            raise self._own.failure
