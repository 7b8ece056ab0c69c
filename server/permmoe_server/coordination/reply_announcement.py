"""What a site's announcement of a reply may say: one message, in the site's own name, and a tree of objects.

The superlink stores it, and expands its tree, before the study's process reads anything of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

MOST_OBJECTS, MOST_LEVELS = 4096, 2
"""Of a reply: a message and its parcels. Flower expands the tree of a reply for everybody's next request: one of a
million objects would hold up all sites."""
LONGEST_TEXT = 1024


class Refused(Exception):
    """A request breaks the rule of this name."""


def check_reply(body: bytes) -> None:
    """Check a site's message; Flower has yet to check that it is signed by the node that it names. Raises Refused."""
    try:
        request = PushMessagesRequest.FromString(body)
    except DecodeError:
        raise Refused("body") from None
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise Refused("reply_shape")
    message, tree = request.messages_list[0], request.message_object_trees[0]
    metadata = message.metadata
    # "A node speaks in its own name, and to the coordinator."
    if metadata.src_node_id != request.node.node_id or metadata.dst_node_id != SUPERLINK_NODE_ID:
        raise Refused("own_name")
    # "A reply is the object that its tree begins with, and carries its content in objects only."
    texts = (metadata.message_id, metadata.group_id, metadata.message_type, metadata.reply_to_message_id)
    if (
        metadata.message_id != tree.object_id
        or message.content.items
        or max(map(len, (*texts, message.error.reason))) > LONGEST_TEXT
    ):
        raise Refused("reply_shape")
    # "Times are numbers": what is none would be added to the run's own, and make it unreadable for ever.
    if not all(map(isfinite, (metadata.created_at, metadata.ttl, *request.clientapp_runtime_list))):
        raise Refused("reply_shape")
    if len(request.clientapp_runtime_list) > 1 or any(seconds < 0 for seconds in request.clientapp_runtime_list):
        raise Refused("reply_shape")
    _check_tree(tree)


def _check_tree(tree: ObjectTree) -> None:
    level: Iterable[ObjectTree] = [tree]
    n_objects = 0
    for _ in range(MOST_LEVELS):
        objects = list(level)
        n_objects += len(objects)
        level = [child for one in objects for child in one.children]
        if n_objects > MOST_OBJECTS:
            break
        if not level:
            return
    raise Refused("reply_shape")
