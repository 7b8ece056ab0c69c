"""The superlink's own way for messages, beside Flower's routes: requests of sites and of the study's process.

It runs in the superlink's process and on its state. Who asks is established by Flower's own functions: a site by the
signature in the headers of its request, the study's process by its token. One thread works on the requests, one after
another, since SQLite has one writer; who waits for something takes no thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from fastapi import FastAPI, HTTPException
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.dependencies.task import authenticate_task
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from permmoe.federated.message_paths import (
    HEARTBEAT,
    LONGEST_SILENCE_SECONDS,
    NEXT_MESSAGE,
    OBJECTS,
    REPLY,
    REPLY_OBJECTS,
    SITE_PATHS,
    STUDY_MESSAGE_OBJECTS,
    STUDY_MESSAGES,
    STUDY_OBJECTS,
    STUDY_PATHS,
    STUDY_REPLIES,
    WAIT_SECONDS,
)
from permmoe.federated.parcel import joined, separated
from permmoe_server.coordination.mailbox import Mailbox, rung
from permmoe_server.coordination.reply_announcement import Refused, check_reply
from permmoe_server.coordination.site_messages import NotGiven, SiteMessages
from permmoe_server.coordination.study_messages import StudyMessages
from permmoe_server.coordination.turns import Turns
from permmoe_server.gateway.asker import AskerGone, unless_gone

LOG = logging.getLogger("permmoe.server")

DESK_PATHS = SITE_PATHS | STUDY_PATHS
REPLY_PATHS = frozenset({REPLY, REPLY_OBJECTS})
REPLIES_AT_ONCE = 8
"""Replies of sites in memory at one time."""
TURNS_AT_ONCE, TURN_SECONDS = 16, 10.0
"""Sites that were told of a message and have not fetched it; how long a place is kept for one that does not come."""
TURN_WAIT_SECONDS = 60.0
"""How long a site waits for its turn. It asks again after that, and is served at once."""
REPLY_WAIT_SECONDS = 2.0
"""How long the study's process waits for a reply; then it is told of sites that were lost, too."""

Answer = TypeVar("Answer")
Request = TypeVar("Request", bound=Message)


class MessageDesk:
    """Answers the requests of DESK_PATHS."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        state = app.state.linkstate_factory.state()
        assert isinstance(state, SqlLinkState), "the superlink keeps its state in a database"
        self._state = state
        self._sites, self._studies, self._mailbox = SiteMessages(state), StudyMessages(state), Mailbox()
        self._turns = Turns(TURNS_AT_ONCE, TURN_SECONDS)
        self._worker = ThreadPoolExecutor(1, "messages")
        self._reading = asyncio.Semaphore(REPLIES_AT_ONCE)
        self._attending: asyncio.Task[None] | None = None
        self._answers = {
            HEARTBEAT: self._heartbeat,
            OBJECTS: self._objects,
            REPLY: self._reply,
            REPLY_OBJECTS: self._reply_objects,
            STUDY_MESSAGES: self._study_messages,
            STUDY_MESSAGE_OBJECTS: self._study_message_objects,
            STUDY_REPLIES: self._study_replies,
            STUDY_OBJECTS: self._study_objects,
        }

    async def answer(self, scope: Scope, read: Callable[[], Awaitable[bytes]], receive: Receive) -> tuple[int, bytes]:
        """Return the status and the body of the answer to a request whose body `read` returns.

        Raises AskerGone where `receive` says that nobody waits for it any more.
        """
        path = scope["path"]
        try:
            if path == NEXT_MESSAGE:
                return 200, await self._next_message(scope, await read(), receive)
            if path not in REPLY_PATHS:
                return 200, await self._answers[path](scope, await read())
            # The others stay where they are, with the gateway: memory does not grow with the number of sites.
            async with self._reading:
                return 200, await self._answers[path](scope, await read())
        except (DecodeError, ValueError) as error:
            status, reason = 400, type(error).__name__
        except (NotGiven, Refused) as error:
            status, reason = 403, str(error)
        except HTTPException as error:
            status, reason = error.status_code, "authentication"
        except FlowerError as error:
            status, reason = 403, ApiErrorCode(error.code).name.lower()
        except AskerGone:
            raise
        # What Flower's state raises is of many types; the site asks again.
        except Exception as error:
            LOG.exception("a request to %s failed", path)
            status, reason = 500, type(error).__name__
        LOG.warning("refused a request to %s: %s", path, reason)
        return status, f"refused: {reason}\n".encode()

    async def _heartbeat(self, scope: Scope, body: bytes) -> bytes:
        request = SendNodeHeartbeatRequest.FromString(body)

        def keep() -> None:
            with self._state.session():
                self._authenticate(scope, request)
                self._sites.heartbeat(request.node.node_id)

        await self._worked(keep)
        return bytes(SendNodeHeartbeatResponse(success=True).SerializeToString())

    async def _next_message(self, scope: Scope, body: bytes, receive: Receive) -> bytes:
        request = PullMessagesRequest.FromString(body)

        def look() -> Any:
            with self._state.session():
                self._authenticate(scope, request)
                self._sites.heartbeat(request.node.node_id)
                return self._sites.next_message(request)

        answer = await self._worked(look)
        if not answer.messages_list:
            if self._attending is None:
                self._attending = asyncio.create_task(self._attend())
            # The bell hangs before anything else is awaited, so that it rings for a message that comes meanwhile.
            with self._mailbox.waits(request.node.node_id) as bell:
                answer = await unless_gone(self._later_message(request, bell), receive)
        return bytes(answer.SerializeToString())

    async def _later_message(self, request: PullMessagesRequest, bell: asyncio.Event) -> PullMessagesResponse:
        """The message for which a bell rings, once it is the node's turn; none where either takes too long."""
        node = request.node.node_id
        if not await rung(bell, WAIT_SECONDS) or not await self._turns.take(node, TURN_WAIT_SECONDS):
            return PullMessagesResponse()
        answer = await self._worked(lambda: self._sites.next_message(request))
        if not answer.messages_list:
            self._turns.end(node)
        return answer

    async def _attend(self) -> None:
        """Count nodes as online while they wait: all of them in one transaction, where each would send heartbeats."""
        while True:
            await asyncio.sleep(LONGEST_SILENCE_SECONDS)
            if nodes := self._mailbox.waiting():
                try:
                    await self._worked(lambda nodes=nodes: self._sites.heartbeats(nodes))  # type: ignore[misc]
                # What Flower's state raises is of many types. Nodes that it holds for lost come back by themselves.
                except Exception:
                    LOG.exception("sites that wait could not be counted as online")

    async def _objects(self, scope: Scope, body: bytes) -> bytes:
        requests = parsed(PullObjectRequest, separated(body))
        check_alike(requests)

        def look() -> bytes:
            self._authenticate(scope, requests[0])
            return serialised(self._sites.objects(requests))

        answer = await self._worked(look)
        self._turns.end(requests[0].node.node_id)
        return answer

    async def _reply(self, scope: Scope, body: bytes) -> bytes:
        announcement, *rest = separated(body)
        check_reply(announcement)
        request, objects = PushMessagesRequest.FromString(announcement), parsed(PushObjectRequest, rest)
        metadata = request.messages_list[0].metadata
        if any((one.node, one.run_id) != (request.node, metadata.run_id) for one in objects):
            raise NotGiven("own_name")

        def keep() -> Any:
            with self._state.session():
                self._authenticate(scope, request)
                return self._sites.reply(request, objects)

        answer = await self._worked(keep)
        if not answer.objects_to_push:
            self._mailbox.answered(metadata.reply_to_message_id)
        return bytes(answer.SerializeToString())

    async def _reply_objects(self, scope: Scope, body: bytes) -> bytes:
        objects = parsed(PushObjectRequest, separated(body))
        check_alike(objects)

        def keep() -> str:
            with self._state.session():
                self._authenticate(scope, objects[0])
                return self._sites.reply_objects(objects)

        if answered := await self._worked(keep):
            self._mailbox.answered(answered)
        return serialised([PushObjectResponse(stored=True)] * len(objects))

    async def _study_messages(self, scope: Scope, body: bytes) -> bytes:
        first, *rest = separated(body)
        request, objects = PushAppMessagesRequest.FromString(first), parsed(PushObjectRequest, rest)
        answer = await self._worked(lambda: self._studies.messages(request, objects, self._task(scope)))
        self._mailbox.ring(message.metadata.dst_node_id for message in request.messages_list)
        return bytes(answer.SerializeToString())

    async def _study_message_objects(self, scope: Scope, body: bytes) -> bytes:
        objects = parsed(PushObjectRequest, separated(body))
        check_alike(objects)

        def keep() -> bytes:
            self._task(scope)
            return serialised(self._studies.message_objects(objects))

        return await self._worked(keep)

    async def _study_replies(self, scope: Scope, body: bytes) -> bytes:
        first, *rest = separated(body)
        request, confirmed = PullAppMessagesRequest.FromString(first), parsed(ConfirmMessageReceivedRequest, rest)
        await self._worked(lambda: self._task(scope))
        if answered := await self._mailbox.wait_for_replies(request.message_ids, REPLY_WAIT_SECONDS):
            request = PullAppMessagesRequest(message_ids=answered)
        answer = await self._worked(lambda: self._studies.replies(request, confirmed, self._task(scope)))
        return bytes(answer.SerializeToString())

    async def _study_objects(self, scope: Scope, body: bytes) -> bytes:
        requests = parsed(PullObjectRequest, separated(body))

        def look() -> bytes:
            self._task(scope)
            return serialised(self._studies.objects(requests))

        return await self._worked(look)

    async def _worked(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def _authenticate(self, scope: Scope, request: Message) -> None:
        """Check that a request is signed by the node that it names, as Flower's own routes do. Raises HTTPException."""
        seen = SimpleNamespace(
            headers=Headers(raw=scope["headers"]), state=SimpleNamespace(protobuf_request=request), app=self._app
        )
        authenticate_node(cast(Any, seen))

    def _task(self, scope: Scope) -> Task:
        """Return the task whose token a request has. Raises FlowerError."""
        headers = Headers(raw=scope["headers"])
        return authenticate_task(
            cast(Any, SimpleNamespace(headers=headers)), headers.get(TASK_TOKEN_HEADER), self._state
        )


def parsed(kind: type[Request], parts: Sequence[bytes]) -> list[Request]:
    """Return the requests that the parts of a body are. Raises DecodeError."""
    return [kind.FromString(part) for part in parts]


def serialised(answers: Sequence[Message]) -> bytes:
    """Return the answers as one body."""
    return joined(answer.SerializeToString() for answer in answers)


def check_alike(requests: Sequence[Any]) -> None:
    """Check that requests are of one node, run and session, and that there are any. Raises NotGiven."""
    if not requests:
        raise NotGiven("empty")
    names = {(one.node.node_id, one.run_id, getattr(one, "session_id", "")) for one in requests}
    if len(names) > 1:
        raise NotGiven("own_name")
