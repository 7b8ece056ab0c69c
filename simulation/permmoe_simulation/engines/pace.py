"""Simulated time: how long sites take, on a clock that runs only while the server waits.

A site works on one message at a time, in the order in which it was sent them. A training takes the time that the pace
says; evaluations and the wire take none. What is not begun, or not answered, while its message lives is never answered,
as with Flower. The same pace gives the same study, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from flwr.app import Message, MessageType

from permmoe_server.protocol.federation import Clock
from permmoe_simulation.engines.grid import InProcessGrid

Pace = Callable[[int, int], float | None]
"""(node, round) -> seconds that the node's training takes; None where it is away in that round."""


@dataclass
class SimulatedTime:
    """Seconds since the federation began; they pass in `pause`."""

    seconds: float = 0.0

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds

    def clock(self) -> Clock:
        """The clock that a server is given."""
        return Clock(lambda: self.seconds, self.pause)


@dataclass(frozen=True)
class PacedTime:
    """The time of a federation whose sites have a pace."""

    pace: Pace
    time: SimulatedTime = field(default_factory=SimulatedTime)


class PacedGrid(InProcessGrid):
    """Nodes whose answers are there when their time has come; among those that are, the earliest comes first."""

    def __init__(self, *arguments: Any, paced: PacedTime, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._time, self._pace = paced.time, paced.pace
        self._free_at: dict[int, float] = {}
        self._due: dict[str, float] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As in InProcessGrid; to a node that is away none can be sent either."""
        return [self._pushed(message) for message in messages]

    def _pushed(self, message: Message) -> str:
        node, number = message.metadata.dst_node_id, int(message.metadata.group_id)
        seconds = self._pace(node, number)
        if seconds is None:
            return ""
        [identifier] = super().push_messages([message])
        if identifier:
            is_training = message.metadata.message_type == MessageType.TRAIN
            self._due[identifier] = self._answered_at(node, seconds if is_training else 0.0, message.metadata.ttl)
        return identifier

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there, as in InProcessGrid."""
        now = self._time.seconds
        return super().pull_messages(sorted((i for i in message_ids if self._due[i] <= now), key=self._due.__getitem__))

    def _answered_at(self, node: int, seconds: float, ttl: float) -> float:
        """When a message that is sent now is answered, infinite for never; the node is at work on it until then."""
        ends = self._time.seconds + ttl
        begins = max(self._time.seconds, self._free_at.get(node, 0.0))
        if begins >= ends:
            return inf
        self._free_at[node] = begins + seconds
        return begins + seconds if begins + seconds < ends else inf
