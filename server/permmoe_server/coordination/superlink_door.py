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
| papers | what a region is handed over is not signed, or older than what it has |
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from flwr.proto.control_pb2 import StartRunRequest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from permmoe.federated.message_paths import SITE_PATHS
from permmoe_server.coordination.message_desk import DESK_PATHS, REPLY_PATHS
from permmoe_server.coordination.pointer import is_pointer
from permmoe_server.coordination.reply_announcement import Refused
from permmoe_server.gateway.asker import AskerGone
from permmoe_server.gateway.door import FLEET_PATHS
from permmoe_server.provisioning.region_papers import PAPERS_PATH

LOG = logging.getLogger("permmoe.server")

CONTROL_PATHS = frozenset(
    f"/v1/control/{name}"
    for name in ("list-nodes", "register-node", "unregister-node", "start-run", "stop-run", "list-runs")
)
RUNTIME_PATHS = frozenset(
    f"/v1/runtime/{name}"
    for name in (
        "acquire-task", "send-task-heartbeat", "pull-task-input", "push-task-output", "get-nodes",
    )
)  # fmt: skip
FLOWER_PATHS = CONTROL_PATHS | RUNTIME_PATHS | {path.decode() for path in FLEET_PATHS}
"""What Flower's own routes answer."""
MOST_BODY_BYTES, MOST_ASKING_BYTES = 64 << 20, 1 << 20
"""Of a request that is looked into, and of one by which a site brings nothing."""


AnswerMessages = Callable[[Scope, Callable[[], Awaitable[bytes]], Receive], Awaitable[tuple[int, bytes]]]
"""A request of DESK_PATHS and what reads its body -> status and body of the answer (MessageDesk.answer)."""
TakePapers = Callable[[bytes], bytes]
"""What a region is handed over -> what it answers (RegionDesk.take)."""


class SuperlinkDoor:
    """An application around Flower's, which answers messages, and a region's coordinator, itself."""

    def __init__(self, app: ASGIApp, answer: AnswerMessages, take_papers: TakePapers) -> None:
        self._app, self._answer_messages, self._take_papers = app, answer, take_papers
        self._checks: dict[str, Callable[[bytes], None]] = {"/v1/control/start-run": check_start}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            # "Our programs post, and to these paths": the path that Flower's router will see.
            if scope["method"] != "POST" or scope["path"] not in FLOWER_PATHS | DESK_PATHS | {PAPERS_PATH}:
                raise Refused("path")
            if scope["path"] == PAPERS_PATH:
                body = await _body(receive)
                await _answer(send, 200, await asyncio.to_thread(self._take_papers, body))
                return
            if scope["path"] in DESK_PATHS:
                most = MOST_ASKING_BYTES if scope["path"] in SITE_PATHS - REPLY_PATHS else MOST_BODY_BYTES
                await _answer(send, *await self._answer_messages(scope, lambda: _body(receive, most), receive))
                return
            if check := self._checks.get(scope["path"]):
                body = await _body(receive)
                check(body)
                receive = _replayed(body, receive)
        except AskerGone:
            return
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


async def _body(receive: Receive, most: int = MOST_BODY_BYTES) -> bytes:
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused("body")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > most:
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
