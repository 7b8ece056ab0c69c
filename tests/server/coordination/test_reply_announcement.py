"""What a site may announce: one message in its own name, with a tree of parcels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node

from permmoe_server.coordination.reply_announcement import MOST_OBJECTS, Refused, check_reply

NODE = 7


def honest() -> PushMessagesRequest:
    metadata = Metadata(
        run_id=3, message_id="a" * 64, src_node_id=NODE, dst_node_id=1, reply_to_message_id="b" * 64, group_id="1",
        ttl=60.0, message_type="train", created_at=1.8e9,
    )  # fmt: skip
    return PushMessagesRequest(
        node=Node(node_id=NODE),
        messages_list=[Message(metadata=metadata)],
        message_object_trees=[ObjectTree(object_id="a" * 64, children=[ObjectTree(object_id="1" * 64)] * 3)],
        clientapp_runtime_list=[1.5],
    )


def deep(request: PushMessagesRequest) -> None:
    tree = request.message_object_trees[0]
    for _ in range(2):
        tree = tree.children.add(object_id="c" * 64)


LIES: dict[str, tuple[Callable[[PushMessagesRequest], object], str]] = {
    "another node's name": (lambda r: setattr(r.messages_list[0].metadata, "src_node_id", 8), "own_name"),
    "for another site": (lambda r: setattr(r.messages_list[0].metadata, "dst_node_id", 8), "own_name"),
    "no message": (lambda r: r.ClearField("messages_list"), "reply_shape"),
    "two messages": (lambda r: r.messages_list.add().CopyFrom(r.messages_list[0]), "reply_shape"),
    "no tree": (lambda r: r.ClearField("message_object_trees"), "reply_shape"),
    "another root": (lambda r: setattr(r.message_object_trees[0], "object_id", "f" * 64), "reply_shape"),
    "content outside of objects": (lambda r: r.messages_list[0].content.items.add(key="x"), "reply_shape"),
    "a time that is none": (lambda r: setattr(r.messages_list[0].metadata, "ttl", float("nan")), "reply_shape"),
    "an endless time": (lambda r: setattr(r.messages_list[0].metadata, "created_at", float("inf")), "reply_shape"),
    "a run time that is none": (lambda r: r.clientapp_runtime_list.__setitem__(0, float("nan")), "reply_shape"),
    "a negative run time": (lambda r: r.clientapp_runtime_list.__setitem__(0, -1.0), "reply_shape"),
    "two run times": (lambda r: r.clientapp_runtime_list.append(1.0), "reply_shape"),
    "a long text": (lambda r: setattr(r.messages_list[0].metadata, "group_id", "x" * 2000), "reply_shape"),
    "a deep tree": (deep, "reply_shape"),
    "a wide tree": (
        lambda r: r.message_object_trees[0].children.extend([ObjectTree(object_id="c")] * (MOST_OBJECTS + 1)),
        "reply_shape",
    ),
}


def test_a_message_in_a_sites_own_name_passes() -> None:
    check_reply(honest().SerializeToString())


@pytest.mark.parametrize("lie", LIES)
def test_a_message_that_would_do_harm_before_it_is_read_is_refused(lie: str) -> None:
    change, rule = LIES[lie]
    request = honest()
    change(request)
    with pytest.raises(Refused, match=rule):
        check_reply(request.SerializeToString())


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(Refused, match="body"):
        check_reply(b"\xff\xff")
