"""What a site may ask the superlink about messages, answered from Flower's own state, a transaction for each request.

Flower's routes do the same with a request for every object and eight layers around each, which takes most of a
superlink's time. What they check is checked here too: who asks (permmoe_server.coordination.message_desk), whether the
run goes on, and that each object has the digest that it is named by.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from flwr.common.constant import HEARTBEAT_PATIENCE, Status
from flwr.common.serde import message_from_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse, PushObjectRequest
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.server.superlink.utils import check_abort
from flwr.supercore.constant import NodeStatus
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes, Node
from flwr.supercore.utils import int64_to_uint64, uint64_to_int64
from flwr.superlink.servicer.fleet import fleet_handlers
from sqlalchemy import select, update

from permmoe.federated.message_paths import EMPTY_HANDED, HEARTBEAT_SECONDS

MOST_ANSWER_BYTES = 8 << 20
"""Objects are added to an answer until it has so much."""
MOST_ARRIVING = 10_000
"""Replies on their way that are remembered; a site may leave one where it is."""
MOST_TIMES_GIVEN_AGAIN, MOST_GIVEN_AGAIN = 3, 10_000
"""Of one message: what ends a site's process each time is not given for ever. And messages that are remembered."""
STATUS_SECONDS = 1.0
"""How long a run is believed to go on."""


class NotGiven(Exception):
    """A request that gets no answer. Its text is the name of a rule."""


@dataclass
class Arriving:
    """A reply that takes several requests."""

    answered: str
    """The message that it answers."""
    missing: set[str]


class SiteMessages:
    """Answers to sites whose requests have been found to be their own."""

    def __init__(self, state: SqlLinkState) -> None:
        self._state = state
        self._arriving: dict[str, Arriving] = {}
        """Replies that are on their way, by session. After a restart of the superlink the study's process finds them by
        asking, and what they answer is given up with the run."""
        self._goes_on_until: dict[int, float] = {}
        """The run that was found to go on, and until when that is believed, monotonic seconds."""
        self._unseen: dict[int, PullMessagesResponse] = {}
        """The message that each node was told of last, until the node asks for its objects. An answer may be lost on
        its way, since a site waits for it over a network that comes and goes: it is given again."""
        self._given_again: dict[str, int] = {}
        """How often a message was given again to a site that came back empty-handed."""

    def heartbeat(self, node: int) -> None:
        """A node shows that it is there. Raises NotGiven."""
        if not self._state.acknowledge_node_heartbeat(node, HEARTBEAT_SECONDS):
            raise NotGiven("unknown_node")

    def heartbeats(self, nodes: Sequence[int]) -> None:
        """Nodes that are online show that they are there still."""
        until = time.time() + HEARTBEAT_PATIENCE * HEARTBEAT_SECONDS
        still = update(Node).where(Node.node_id.in_(map(uint64_to_int64, nodes)), Node.status == NodeStatus.ONLINE)
        with self._state.session() as session:
            session.execute(still.values(online_until=until))

    def next_message(self, request: PullMessagesRequest) -> PullMessagesResponse:
        """Return the next message for a node, or none."""
        node = request.node.node_id
        with self._state.session():
            if unseen := self._unseen.get(node):
                return unseen
            if EMPTY_HANDED in request.message_ids:
                self._give_again(node)
            answer = fleet_handlers.pull_messages(request, self._state, self._state.object_store)
        if answer.messages_list:
            self._unseen[node] = answer
        return answer

    def _give_again(self, node: int) -> None:
        """Let the messages that a node was given and has not answered be its next ones, while their runs go on."""
        lost = (
            select(MessageIns.message_id, MessageIns.run_id)
            .where(MessageIns.dst_node_id == uint64_to_int64(node), MessageIns.delivered_at != "")
            .where(MessageIns.message_id.not_in(select(MessageRes.reply_to_message_id)))
        )
        with self._state.session() as session:
            for name, run_id in session.execute(lost).all():
                assert name is not None and run_id is not None
                with suppress(NotGiven):
                    self.check_run(int64_to_uint64(run_id))
                    times = self._given_again.get(name, 0) + 1
                    if times <= MOST_TIMES_GIVEN_AGAIN:
                        self._given_again[name] = times
                        session.execute(update(MessageIns).where(MessageIns.message_id == name).values(delivered_at=""))
        while len(self._given_again) > MOST_GIVEN_AGAIN:
            del self._given_again[next(iter(self._given_again))]

    def objects(self, requests: Sequence[PullObjectRequest]) -> list[PullObjectResponse]:
        """Return the first of the objects, as many as an answer has room for. Raises NotGiven."""
        self._unseen.pop(requests[0].node.node_id, None)
        with self._state.session():
            self.check_run(requests[0].run_id)
            return stored_objects(self._state, requests)

    def reply(self, request: PushMessagesRequest, objects: Sequence[PushObjectRequest]) -> PushMessagesResponse:
        """Store a reply and the objects that came with it. Once all are there, the message that it answers is given up.

        The answer names the objects that are missing. Raises NotGiven.
        """
        with self._state.session():
            self.check_run(request.messages_list[0].metadata.run_id)
            message = message_from_proto(request.messages_list[0])
            session = self._state.start_session(message.metadata.run_id)
            tree = request.message_object_trees[0]
            is_stored, missing = self._state.store_message_and_object_tree(message, tree, session)
            store(self._state, [one for one in objects if one.object_id in missing], session)
            left = set(missing) - {one.object_id for one in objects}
            answered = message.metadata.reply_to_message_id
            if is_stored and not left:
                self._state.object_store.delete(answered)
        if left:
            self._arriving[session] = Arriving(answered, left)
            if len(self._arriving) > MOST_ARRIVING:
                del self._arriving[next(iter(self._arriving))]
        return PushMessagesResponse(objects_to_push=sorted(left), session_id=session)

    def reply_objects(self, objects: Sequence[PushObjectRequest]) -> str:
        """Store further objects of a reply; return the message that it answers once it is whole, else an empty text.

        Raises NotGiven.
        """
        session = objects[0].session_id
        with self._state.session():
            self.check_run(objects[0].run_id)
            store(self._state, not_there(self._state, objects), session)
            if (arriving := self._arriving.get(session)) is None:
                return ""
            arriving.missing -= {one.object_id for one in objects}
            if arriving.missing:
                return ""
            self._state.object_store.delete(arriving.answered)
        del self._arriving[session]
        return arriving.answered

    def check_run(self, run_id: int) -> None:
        """Check that a run goes on, or did a moment ago. Raises NotGiven."""
        if time.monotonic() < self._goes_on_until.get(run_id, 0.0):
            return
        try:
            over = check_abort(run_id, [Status.PENDING, Status.STARTING, Status.FINISHED], self._state)
        except KeyError:
            raise NotGiven("unknown_run") from None
        if over:
            raise NotGiven("run_is_over")
        self._goes_on_until = {run_id: time.monotonic() + STATUS_SECONDS}


def stored_objects(state: SqlLinkState, requests: Sequence[PullObjectRequest]) -> list[PullObjectResponse]:
    """Return the first of the objects, as many as an answer has room for, one at least."""
    answers, size = list[PullObjectResponse](), 0
    for request in requests:
        content = state.get_object(request.run_id, request.object_id)
        size += len(content or b"")
        if answers and size > MOST_ANSWER_BYTES:
            break
        # An object that is announced and has not come is empty.
        answers.append(
            PullObjectResponse(
                object_found=content is not None, object_available=bool(content), object_content=content or b""
            )
        )
    return answers


def not_there(state: SqlLinkState, objects: Sequence[PushObjectRequest]) -> list[PushObjectRequest]:
    """Return the objects that are not stored: a request whose answer was lost is made again."""
    return [one for one in objects if not state.get_object(one.run_id, one.object_id)]


def store(state: SqlLinkState, objects: Sequence[PushObjectRequest], session: str) -> None:
    """Store objects that a session waits for. Raises NotGiven: then nothing of the request is kept."""
    for one in objects:
        # Flower compares the digest, and takes only what has been announced.
        if not state.store_object(one.run_id, session, one.object_id, one.object_content):
            raise NotGiven("object")
