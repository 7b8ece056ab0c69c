"""Flower's grid without waiting, and without trust: a reply is handed out once the superlink has all of it.

Flower's own `pull_messages` waits for the rest of a reply that is still arriving, for a second at least, and for three
minutes where its sender died: one site would hold up all others. It also inflates whatever a site sent, and raises
where that is no message. Here a reply that is none, that is too large, or that is in another node's name becomes an
error of the node that was asked, with the rule that it breaks as its reason; what the rules are,
permmoe_server.coordination.reply_objects says.

This file uses private names of Flower, as do permmoe_server.coordination.superlink and
permmoe_client.connection.fleet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.message_pb2 import Metadata as ProtoMetadata
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError
from flwr.superlink.grid.http_grid import HttpGrid

from permmoe_server.coordination.reply_objects import NotAReply, inflated, most_objects
from permmoe_server.protocol.reply_sizes import LargestReply, ReplySize


@dataclass
class _Asked:
    """A message on its way, and what of the reply to it has arrived."""

    identifier: str
    node: int
    most: ReplySize
    """The size of the largest honest reply."""
    reply: str = ""
    """The identifier of the reply; empty until the superlink has announced one."""
    sender: int = 0
    """Who replied: the node or, in its place once it is lost, the superlink."""
    missing: list[str] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)
    n_bytes: int = 0

    def announce(self, metadata: ProtoMetadata, tree: ObjectTree) -> None:
        """Note what the superlink says of the reply."""
        self.reply, self.sender = metadata.message_id, metadata.src_node_id
        self.missing = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))

    def check(self) -> None:
        """Check what has been announced and has arrived. Raises NotAReply."""
        # "A node answers for itself."
        if self.sender not in (self.node, SUPERLINK_NODE_ID):
            raise NotAReply("wrong_node")
        # "A reply is no larger than the largest honest one."
        if len(self.missing) > most_objects(self.most) or self.n_bytes > self.most.numbers + self.most.records:
            raise NotAReply("reply_size")

    def take(self, content: bytes) -> None:
        """Keep the next missing object."""
        self.contents[self.missing.pop()] = content
        self.n_bytes += len(content)

    def message(self) -> Message:
        """The reply, once it is whole. Raises NotAReply."""
        message = inflated(self.reply, self.contents, self.most)
        # The message says once more what the superlink announced, and it is the message that is read from here on.
        if (message.metadata.src_node_id, message.metadata.reply_to_message_id) != (self.sender, self.identifier):
            raise NotAReply("wrong_node")
        message.metadata.__dict__["_message_id"] = self.reply
        return message


class NonblockingGrid:
    """What permmoe_server.protocol.rounds needs of a grid, over a connection to the superlink."""

    def __init__(self, grid: HttpGrid, largest: LargestReply) -> None:
        self._grid, self._largest = grid, largest
        self._asked: dict[str, _Asked] = {}
        """Keyed by the identifier of the message that is answered."""
        self._is_pulling = False

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that are connected."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages and return their identifiers, an empty one where a message could not be stored.

        The first ones after a pull open another exchange: replies to earlier messages are given up.
        """
        if self._is_pulling:
            self._asked.clear()
            self._is_pulling = False
        sent = list(messages)
        identifiers = list(self._grid.push_messages(sent))
        for identifier, message in zip(identifiers, sent, strict=False):
            if identifier:
                most = self._largest(message.metadata.message_type)
                self._asked[identifier] = _Asked(identifier, message.metadata.dst_node_id, most)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yield the replies that are whole.

        A reply that can no longer become whole is an error reply, as in Flower; so is one that is no message.
        """
        self._is_pulling = True
        wanted = {name: self._asked[name] for name in message_ids if name in self._asked}
        # The superlink announces a reply once, and calls it unavailable when it is asked again.
        unknown = [name for name, asked in wanted.items() if not asked.reply]
        answer = self._grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=unknown))
        for announced, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            if asked := wanted.get(announced.metadata.reply_to_message_id):
                asked.announce(announced.metadata, tree)
        arriving = {name: asked for name, asked in wanted.items() if asked.reply}
        for name, asked in arriving.items():
            if (message := self._completed(asked)) is not None:
                del self._asked[name]
                yield message
        unfinished = [name for name in arriving if name in self._asked]
        connected = set(self.get_node_ids()) if unfinished else set()
        for name in unfinished:
            if self._asked[name].node not in connected:
                del self._asked[name]
                yield _failed(name, ErrorCode.NODE_UNAVAILABLE)

    def _completed(self, asked: _Asked) -> Message | None:
        run_id = self._grid.run.run_id
        pull = make_pull_object_fn_protobuf(self._grid._runtime_client.PullObject, self._grid.node, run_id)
        try:
            asked.check()
            while asked.missing:
                asked.take(pull(asked.missing[-1]))
                asked.check()
            message = asked.message()
        except ObjectUnavailableError:
            return None
        except ObjectPullError:
            return _failed(asked.identifier, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)
        except NotAReply as broken:
            message = _failed(asked.identifier, ErrorCode.UNKNOWN, broken.rule)
        self._grid._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self._grid.node, run_id=run_id, message_object_id=asked.reply)
        )
        return message


def nonblocking(grid: Grid, largest: LargestReply) -> Grid | NonblockingGrid:
    """Return the same grid or, where it is Flower's connection to a superlink, one that neither waits nor trusts."""
    return NonblockingGrid(grid, largest) if isinstance(grid, HttpGrid) else grid


def _failed(reply_to: str, code: int, reason: str | None = None) -> Message:
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
    return make_message(metadata=metadata, error=Error(code, reason))
