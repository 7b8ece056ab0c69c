"""Flower's grid without waiting: a reply is handed out once the superlink has all of it.

Flower's own `pull_messages` waits for the rest of a reply that is still arriving, for a second at least, and for three
minutes where its sender died: one site would hold up all others. This file uses private names of Flower, as do
permmoe_server.coordination.superlink and permmoe_client.connection.fleet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
)
from flwr.superlink.grid.http_grid import HttpGrid


@dataclass
class _Arriving:
    """A reply that the superlink has announced, and the objects of it that have arrived."""

    message_id: str
    reply_to: str
    node: int
    missing: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)


class NonblockingGrid:
    """What permmoe_server.protocol.rounds needs of a grid, over a connection to the superlink."""

    def __init__(self, grid: HttpGrid) -> None:
        self._grid = grid
        self._arriving: dict[str, _Arriving] = {}
        """Keyed by the identifier of the message that is answered."""

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that are connected."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages and return their identifiers. Replies to earlier messages that still arrive are given up."""
        self._arriving.clear()
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yield the replies that are whole. A reply that can no longer become whole is an error reply, as in Flower."""
        wanted = list(message_ids)
        # The superlink announces a reply once, and calls it unavailable when it is asked again.
        unknown = [name for name in wanted if name not in self._arriving]
        answer = self._grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=unknown))
        for announced, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            reply_to = announced.metadata.reply_to_message_id
            self._arriving[reply_to] = _Arriving(
                announced.metadata.message_id, reply_to, announced.metadata.src_node_id, _object_ids(tree)
            )
        for name in [name for name in wanted if name in self._arriving]:
            if (message := self._completed(self._arriving[name])) is not None:
                del self._arriving[name]
                yield message
        unfinished = [name for name in wanted if name in self._arriving]
        connected = set(self.get_node_ids()) if unfinished else set()
        for name in unfinished:
            if self._arriving[name].node not in connected:
                del self._arriving[name]
                yield _failed(name, ErrorCode.NODE_UNAVAILABLE)

    def _completed(self, reply: _Arriving) -> Message | None:
        run_id = self._grid.run.run_id
        pull = make_pull_object_fn_protobuf(self._grid._runtime_client.PullObject, self._grid.node, run_id)
        try:
            while reply.missing:
                reply.contents[reply.missing[-1]] = pull(reply.missing[-1])
                reply.missing.pop()
        except ObjectUnavailableError:
            return None
        except ObjectPullError:
            return _failed(reply.reply_to, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)
        self._grid._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self._grid.node, run_id=run_id, message_object_id=reply.message_id)
        )
        message = cast(Message, inflate_object_from_contents(reply.message_id, reply.contents))
        message.metadata.__dict__["_message_id"] = reply.message_id
        return message


def nonblocking(grid: Grid) -> Grid | NonblockingGrid:
    """Return the same grid or, where it is Flower's connection to a superlink, one whose calls do not wait."""
    return NonblockingGrid(grid) if isinstance(grid, HttpGrid) else grid


def _failed(reply_to: str, code: int) -> Message:
    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=SUPERLINK_NODE_ID,
        message_type=SYSTEM_MESSAGE_TYPE,
        group_id="",
        ttl=0,
        reply_to_message_id=reply_to,
        created_at=0,
    )
    return make_message(metadata=metadata, error=Error(code))


def _object_ids(tree: ObjectTree) -> list[str]:
    return [part.object_id for part in iterate_object_tree(tree)]
