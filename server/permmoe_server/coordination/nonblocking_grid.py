"""Flower's grid without waiting, and without trust: a reply is handed out once the superlink has all of it.

Flower's own `pull_messages` waits for the rest of a reply that is still arriving, for a second at least, and for three
minutes where its sender died: one site would hold up all others. It also inflates whatever a site sent, and raises
where that is no message. Here a reply that is none, that is too large, or that the node's site has not signed as its
answer to this very message becomes an error of the node that was asked, with the rule that it breaks as its reason;
what the rules are, permmoe_server.coordination.reply_objects says. Of the superlink's own word, that a node is lost or
a message too old, only the error's code is passed on.

Messages travel in parcels (permmoe.federated.parcel), many in one request, over the superlink's own paths for them
(permmoe_server.coordination.message_desk).

This file uses private names of Flower, as do permmoe_server.coordination.superlink and
permmoe_client.connection.fleet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Error, Message, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.serverapp import Grid
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree, no_object_id_recompute
from flwr.superlink.grid.http_grid import HttpGrid

from permmoe.federated.message_paths import (
    STUDY_MESSAGE_OBJECTS,
    STUDY_MESSAGES,
    STUDY_OBJECTS,
    STUDY_REPLIES,
    post,
)
from permmoe.federated.parcel import Parcels, in_bodies, joined, pack, separated, shared_parcels
from permmoe_server.coordination.reply_objects import Awaited, NotAReply, inflated, most_parcel_bytes, most_parcels
from permmoe_server.protocol.reply_sizes import LargestReply

MESSAGES_AT_ONCE = 16
"""Of one request: the first sites begin to work while the superlink stores the messages of the others."""
BODY_BYTES = 16 << 20
"""A request to the superlink is closed once it has so much."""
PULL_AT_ONCE = 8
"""Replies that a grid that hands out lists has in memory at one time, at most."""

PackedContents = Mapping[int, Parcels]
"""The parcels of contents, by `id(content)`."""
NodeKeys = Callable[[], Mapping[int, ec.EllipticCurvePublicKey]]
"""Returns the key that the roster has for the site of each node, at this moment."""


@dataclass
class _Asked:
    """A message on its way, and what of the reply to it has arrived."""

    awaited: Awaited
    until: float
    """When the message ends, and with it the time for a reply: seconds since 1970."""
    reply: str = ""
    """The identifier of the reply; empty until the superlink has announced one."""
    sender: int = 0
    """Who replied, as the superlink says: the node or, in its place once it is lost, the superlink."""
    error: int | None = None
    """The code of the superlink's own error; None where the node replied."""
    missing: list[str] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)
    n_bytes: int = 0

    def announce(self, header: ProtoMessage, tree: ObjectTree) -> None:
        """Note what the superlink says of the reply."""
        self.reply, self.sender = header.metadata.message_id, header.metadata.src_node_id
        if self.sender == SUPERLINK_NODE_ID and header.HasField("error"):
            self.error = header.error.code
            return
        self.missing = list(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))

    def check(self) -> None:
        """Check what has been announced and has arrived. Raises NotAReply."""
        # "A node answers for itself."
        if self.sender != self.awaited.node:
            raise NotAReply("wrong_node")
        most, n_objects = self.awaited.most, len(self.missing) + len(self.contents)
        # "A reply is no larger than the largest honest one."
        if n_objects > 1 + most_parcels(most) or self.n_bytes > most_parcel_bytes(most):
            raise NotAReply("reply_size")

    def take(self, content: bytes) -> None:
        """Keep the first missing object."""
        self.contents[self.missing.pop(0)] = content
        self.n_bytes += len(content)

    def message(self) -> Message:
        """The reply, once it is whole. Raises NotAReply."""
        message = inflated(self.reply, self.contents, self.awaited)
        message.metadata.__dict__["_message_id"] = self.reply
        return message


class NonblockingGrid:
    """What permmoe_server.protocol.rounds needs of a grid, over a connection to the superlink."""

    def __init__(self, grid: HttpGrid, largest: LargestReply, keys: NodeKeys) -> None:
        self._grid, self._largest, self._keys = grid, largest, keys
        self._asked: dict[str, _Asked] = {}
        """Keyed by the identifier of the message that is answered."""
        self._confirmed: list[ConfirmMessageReceivedRequest] = []
        """Replies that are here or given up; the superlink is told with the next request."""

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that are connected."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages and return their identifiers, an empty one where a message could not be stored.

        Replies to earlier messages may still come, until those end.
        """
        sent = list(messages)
        return self.push_packed(sent, packed(message.content for message in sent))

    def push_packed(self, messages: Sequence[Message], parcels: PackedContents) -> list[str]:
        """Send messages whose contents have been packed already; return as `push_messages` does."""
        now, run_id = time.time(), self._grid.run.run_id
        self._asked = {name: asked for name, asked in self._asked.items() if now < asked.until}
        identifiers: list[str] = []
        with no_object_id_recompute():
            for message in messages:
                message.metadata.__dict__["_run_id"] = run_id
                message.metadata.__dict__["_message_id"] = message.object_id
            there: set[str] = set()
            for start in range(0, len(messages), MESSAGES_AT_ONCE):
                identifiers += self._push(messages[start : start + MESSAGES_AT_ONCE], parcels, there)
        # It may depend on the roster, which takes a tenth of a second to read where it has a thousand keys.
        most = {kind: self._largest(kind) for kind in {message.metadata.message_type for message in messages}}
        keys = self._keys()
        for identifier, sent in zip(identifiers, (message.metadata for message in messages), strict=True):
            if identifier:
                node = sent.dst_node_id
                awaited = Awaited(identifier, node, keys.get(node), most[sent.message_type])
                self._asked[identifier] = _Asked(awaited, sent.created_at + sent.ttl)
        return identifiers

    def _push(self, messages: Sequence[Message], parcels: PackedContents, there: set[str]) -> list[str]:
        """Send some messages. `there`: the objects that were sent, to which new ones are added."""
        request, objects = PushAppMessagesRequest(), dict[str, bytes]()
        for message in messages:
            own, root = parcels[id(message.content)], message.metadata.message_id
            objects |= {**own, root: message.deflate()}
            request.messages_list.append(message_to_proto(remove_content_from_message(message)))
            children = [ObjectTree(object_id=name) for name in own]
            request.message_object_trees.append(ObjectTree(object_id=root, children=children))
        run_id, client = self._grid.run.run_id, self._grid._runtime_client

        def pushed(name: str, session: str = "") -> bytes:
            content = objects[name]
            one = PushObjectRequest(
                node=self._grid.node, run_id=run_id, object_id=name, object_content=content, session_id=session
            )
            return bytes(one.SerializeToString())

        first = next(in_bodies(map(pushed, [name for name in objects if name not in there]), BODY_BYTES))
        there |= objects.keys()
        body = joined([request.SerializeToString(), *first])
        answer = PushAppMessagesResponse.FromString(post(client, STUDY_MESSAGES, body))
        for parts in in_bodies((pushed(name, answer.session_id) for name in answer.objects_to_push), BODY_BYTES):
            stored = separated(post(client, STUDY_MESSAGE_OBJECTS, joined(parts)))
            assert all(PushObjectResponse.FromString(one).stored for one in stored), "the superlink stores or refuses"
        # "A message goes by the name that we gave it, or was not stored."
        named = zip(messages, answer.message_ids, strict=True)
        return [name if name == message.metadata.message_id else "" for message, name in named]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Yield the replies that are whole; where there are none, wait for a moment for the superlink to have one.

        A reply that can no longer become whole is an error reply, as in Flower; so is one that is no message.
        """
        wanted = {name: self._asked[name] for name in message_ids if name in self._asked}
        # The superlink announces a reply once, and calls it unavailable when it is asked again.
        unknown = [name for name, asked in wanted.items() if not asked.reply]
        confirmed, self._confirmed = self._confirmed, []
        request = PullAppMessagesRequest(message_ids=unknown)
        body = joined([request.SerializeToString(), *(one.SerializeToString() for one in confirmed)])
        answer = PullAppMessagesResponse.FromString(post(self._grid._runtime_client, STUDY_REPLIES, body))
        for announced, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            if asked := wanted.get(announced.metadata.reply_to_message_id):
                asked.announce(announced, tree)
        arriving = {name: asked for name, asked in wanted.items() if asked.reply}
        for name, asked in arriving.items():
            if (message := self._completed(asked)) is not None:
                self._asked.pop(name, None)
                yield message
        unfinished = [name for name in arriving if name in self._asked]
        connected = set(self.get_node_ids()) if unfinished else set()
        for name in unfinished:
            if self._asked[name].awaited.node not in connected:
                del self._asked[name]
                yield failed(name, ErrorCode.NODE_UNAVAILABLE)

    def _completed(self, asked: _Asked) -> Message | None:
        """The reply, or the error that stands for it; None where some of it has yet to arrive."""
        if asked.error is not None:
            self._confirm(asked)
            return failed(asked.awaited.message, asked.error)
        try:
            asked.check()
            while asked.missing:
                for one in self._objects(asked.missing):
                    if not one.object_found:
                        return failed(asked.awaited.message, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)
                    if not one.object_available:
                        return None
                    asked.take(one.object_content)
                    asked.check()
            message = asked.message()
        except NotAReply as broken:
            message = failed(asked.awaited.message, ErrorCode.UNKNOWN, broken.rule)
        self._confirm(asked)
        return message

    def _confirm(self, asked: _Asked) -> None:
        """Let the superlink give up the reply, with the next request."""
        node, run_id = self._grid.node, self._grid.run.run_id
        self._confirmed.append(ConfirmMessageReceivedRequest(node=node, run_id=run_id, message_object_id=asked.reply))

    def _objects(self, names: Iterable[str]) -> Iterator[PullObjectResponse]:
        """The first of these objects, as many as the superlink puts into one answer."""
        run_id = self._grid.run.run_id
        asked = [PullObjectRequest(node=self._grid.node, run_id=run_id, object_id=name) for name in names]
        body = joined(one.SerializeToString() for one in asked)
        parts = separated(post(self._grid._runtime_client, STUDY_OBJECTS, body))
        # "An answer has one object at least", or it would be asked for without end.
        if not parts:
            raise ValueError("the superlink answered nothing")
        yield from map(PullObjectResponse.FromString, parts)


class FewAtOnce:
    """A grid that hands out lists of replies, a few in one list."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that are connected."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages one at a time: where one cannot be stored, some grids return None for it and some nothing."""
        return [next(iter(self._grid.push_messages([message])), None) or "" for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Yield the replies that are there."""
        names = list(message_ids)
        for start in range(0, len(names), PULL_AT_ONCE):
            yield from self._grid.pull_messages(names[start : start + PULL_AT_ONCE])


def packed(contents: Iterable[RecordDict]) -> PackedContents:
    """Pack contents; one that goes to many sites is written, and named, once."""
    with no_object_id_recompute():
        by_id = {id(content): content for content in contents}
        shared = shared_parcels(by_id.values())
        return {name: pack(content, shared) for name, content in by_id.items()}


def failed(reply_to: str, code: int, reason: str | None = None) -> Message:
    """Return the reply that stands for one that did not come."""
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
