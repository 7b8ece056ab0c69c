"""What the superlink lets in: the requests that our own programs make, and of a site only messages in its own name.

The kernel keeps other users of the machine away from the superlink's socket, and the gateway strangers. This door
stands for what is left: a member of the federation whose messages would do harm before the server app reads them, and
a program of the coordinator's own user that asks for what the coordinator never does, such as a run of other code.

| rule | a request is refused because |
|---|---|
| path | none of our programs asks for it |
| body | it is no message of Flower, or too long |
| bundle | the run that it starts is not the one bundle that we ship (permmoe_server.coordination.pointer) |
| own_name | a site's reply is in another node's name, or not for the coordinator |
| reply_shape | a reply is not one message with one tree of objects as an honest one has it |
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from math import isfinite

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from permmoe_server.coordination.pointer import is_pointer
from permmoe_server.gateway.door import FLEET_PATHS

LOG = logging.getLogger("permmoe.server")

CONTROL_PATHS = frozenset(
    f"/v1/control/{name}"
    for name in ("list-nodes", "register-node", "unregister-node", "start-run", "stop-run", "list-runs")
)
RUNTIME_PATHS = frozenset(
    f"/v1/runtime/{name}"
    for name in (
        "acquire-task", "send-task-heartbeat", "pull-task-input", "push-task-output", "push-messages", "pull-messages",
        "push-object", "pull-object", "confirm-message-received", "get-nodes",
    )
)  # fmt: skip
PATHS = CONTROL_PATHS | RUNTIME_PATHS | {path.decode() for path in FLEET_PATHS}
MOST_BODY_BYTES = 64 << 20
"""Of a request that is looked into."""
MOST_OBJECTS, MOST_LEVELS = 4096, 6
"""Of a reply: a message, its content, its records, an array, its chunks of 5 MiB. Flower expands the tree of a reply
for everybody's next request, so that a tree of a million objects would hold up all sites."""
LONGEST_TEXT = 1024


class Refused(Exception):
    """A request breaks the rule of this name."""


class SuperlinkDoor:
    """An application around Flower's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._checks: dict[str, Callable[[bytes], None]] = {
            "/v1/control/start-run": check_start,
            "/v1/fleet/push-messages": check_reply,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            # "Our programs post, and to these paths": the path that Flower's router will see.
            if scope["method"] != "POST" or scope["path"] not in PATHS:
                raise Refused("path")
            if check := self._checks.get(scope["path"]):
                body = await _body(receive)
                check(body)
                receive = _replayed(body, receive)
        except Refused as refusal:
            LOG.warning("refused a request to %r: %s", scope["path"][:80], refusal)
            await _answer(send, 403, f"refused: {refusal}\n".encode())
            return
        await self._app(scope, receive, send)


def check_start(body: bytes) -> None:
    """Check the start of a run. Raises Refused."""
    try:
        request = StartRunRequest.FromString(body)
    except DecodeError:
        raise Refused("body") from None
    # "Nothing runs but what we ship": neither another bundle nor an app that Flower would fetch by its name.
    if request.app_spec or not is_pointer(request.fab.content):
        raise Refused("bundle")


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


async def _body(receive: Receive) -> bytes:
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused("body")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST_BODY_BYTES:
            raise Refused("body")
    return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Flower reads the body once more; after it, whatever else happens to the connection."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
