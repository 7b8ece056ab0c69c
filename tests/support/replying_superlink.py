"""A superlink that hands the server app whatever bytes a test gives it as a site's reply.

Replies are signed as their site signs them, unless a test has another signature on them, or none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Error, MessageType, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
)
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from permmoe.federated.message_paths import STUDY_MESSAGES, STUDY_OBJECTS, STUDY_REPLIES
from permmoe.federated.parcel import joined, object_name, separated
from permmoe.federated.reply_signature import sign_reply

RUN = 77


@dataclass(frozen=True)
class Sent:
    """A reply as a site sent it: objects by identifier, and what the site says is in what."""

    node: int
    reply_to: str
    root: str
    tree: ObjectTree
    objects: Mapping[str, bytes]

    def renamed(self, objects: Mapping[str, bytes]) -> Sent:
        """The same reply of other objects: each has the SHA-256 of its bytes, and names the others so."""
        names = {old: hashlib.sha256(content).hexdigest() for old, content in objects.items()}
        written = {names[old]: content for old, content in objects.items()}
        return replace(self, root=names[self.root], objects=written, tree=flat(names[self.root], written))

    def packed(self, *signatures: bytes) -> Sent:
        """The same reply on the network: the objects below the first one, whatever they are, and signatures, lie in a
        parcel."""
        inside = [*(content for name, content in self.objects.items() if name != self.root), *signatures]
        parcel = ArrayChunk(memoryview(joined(inside))).deflate()
        objects = {name: self.objects[name] for name in self.objects if name == self.root}
        invented = [part.object_id for part in iterate_object_tree(self.tree) if part.object_id not in self.objects]
        written = {object_name(parcel): parcel, **objects}
        return replace(self, objects=written, tree=flat(self.root, [*written, *invented]))

    def signed(self, key: ec.EllipticCurvePrivateKey | None = None) -> Sent:
        """The same reply as it leaves a site that has this key, by default the one of its node."""
        return self.packed(sign_reply(self.root, key or site_key(self.node)))


@lru_cache
def site_key(node: int) -> ec.EllipticCurvePrivateKey:
    """The key of the site that a node is: the same in all threads, who may ask for it first at the same time."""
    return ec.derive_private_key(1 + node, ec.SECP384R1())


def site_keys(*nodes: int) -> Mapping[int, ec.EllipticCurvePublicKey]:
    """What the roster has of these nodes."""
    return {node: site_key(node).public_key() for node in nodes}


def flat(root: str, objects: Iterable[str]) -> ObjectTree:
    """A tree that names every object, below the first one."""
    return ObjectTree(object_id=root, children=[ObjectTree(object_id=name) for name in objects if name != root])


def sent(node: int, reply_to: str, what: RecordDict | Error, **metadata: Any) -> Sent:
    """What an honest node sends; `metadata` takes the place of the message's own."""
    known: dict[str, Any] = {
        "run_id": RUN,
        "message_id": "",
        "src_node_id": node,
        "dst_node_id": SUPERLINK_NODE_ID,
        "reply_to_message_id": reply_to,
        "group_id": "1",
        "created_at": 1.8e9,
        "ttl": 60.0,
        "message_type": MessageType.TRAIN,
    }
    said = Metadata(**{**known, **metadata})
    message = make_message(said, content=what) if isinstance(what, RecordDict) else make_message(said, error=what)
    objects = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    return Sent(node, reply_to, message.object_id, get_object_tree(message), objects)


class ReplyingGrid(HttpGrid):
    """Flower's connection to a superlink, as far as NonblockingGrid uses it; the superlink's part is played here."""

    def __init__(self, nodes: Iterable[int]) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN, SUPERLINK_NODE_ID
        self.nodes = tuple(nodes)
        self.asked: dict[str, ProtoMessage] = {}
        self.replies: dict[str, Sent] = {}
        """By the message that is answered; on the network."""
        self.errors: dict[str, Error] = {}
        """What the superlink says itself, by the message that is answered."""
        self.confirmed: list[str] = []
        self.pulled_bytes = 0
        self.node = Node(node_id=SUPERLINK_NODE_ID)
        self._client = RuntimeHttpClient("http://superlink")
        self._client._client = httpx.Client(transport=httpx.MockTransport(self._answer))

    @property
    def run(self) -> Run:
        return Run.create_empty(RUN)

    def get_node_ids(self) -> Iterable[int]:
        return self.nodes

    def answer(self, reply: Sent) -> None:
        """Hand this reply out at the next pull, signed and in parcels."""
        self.answer_as_it_is(reply.signed())

    def answer_as_it_is(self, reply: Sent) -> None:
        """Hand this reply out as it is."""
        self.replies[reply.reply_to] = reply

    def _answer(self, request: httpx.Request) -> httpx.Response:
        answers = {STUDY_MESSAGES: self._messages, STUDY_REPLIES: self._replies, STUDY_OBJECTS: self._objects}
        return httpx.Response(200, content=answers[request.url.path](separated(request.content)))

    def _messages(self, parts: list[bytes]) -> bytes:
        request = PushAppMessagesRequest.FromString(parts[0])
        self.asked |= {message.metadata.message_id: message for message in request.messages_list}
        names = [message.metadata.message_id for message in request.messages_list]
        return bytes(PushAppMessagesResponse(message_ids=names).SerializeToString())

    def _replies(self, parts: list[bytes]) -> bytes:
        self.confirmed += [ConfirmMessageReceivedRequest.FromString(one).message_object_id for one in parts[1:]]
        request = PullAppMessagesRequest.FromString(parts[0])
        found = [self.replies[name] for name in request.message_ids if name in self.replies]
        failed = {name: self.errors[name] for name in request.message_ids if name in self.errors}
        answer = PullAppMessagesResponse(
            messages_list=[*map(self._announced, found), *(self._own_word(*item) for item in failed.items())],
            message_object_trees=[*(reply.tree for reply in found), *(ObjectTree(object_id="e" * 64) for _ in failed)],
        )
        return bytes(answer.SerializeToString())

    def _announced(self, reply: Sent) -> ProtoMessage:
        header = Metadata(RUN, reply.root, reply.node, SUPERLINK_NODE_ID, reply.reply_to, "1", 1.8e9, 60.0, "train")
        return message_to_proto(remove_content_from_message(make_message(header, content=RecordDict())))

    def _own_word(self, reply_to: str, error: Error) -> ProtoMessage:
        header = Metadata(RUN, "e" * 64, SUPERLINK_NODE_ID, SUPERLINK_NODE_ID, reply_to, "1", 1.8e9, 60.0, "train")
        return message_to_proto(make_message(header, error=error))

    def _objects(self, parts: list[bytes]) -> bytes:
        return joined(self._object(PullObjectRequest.FromString(part)).SerializeToString() for part in parts[:1])

    def _object(self, request: PullObjectRequest) -> PullObjectResponse:
        for reply in self.replies.values():
            if (content := reply.objects.get(request.object_id)) is not None:
                self.pulled_bytes += len(content)
                return PullObjectResponse(object_found=True, object_available=True, object_content=content)
        return PullObjectResponse(object_found=False, object_available=False)
