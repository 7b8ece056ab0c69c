"""What the study's process asks the superlink about messages, answered from Flower's own state.

As with permmoe_server.coordination.site_messages: a transaction for each request, several objects in one.
"""

from __future__ import annotations

from collections.abc import Sequence

from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.superlink.servicer.runtime import runtime_handlers

from permmoe_server.coordination.site_messages import not_there, store, stored_objects


class StudyMessages:
    """Answers to the process of a run, whose token has been found to be valid."""

    def __init__(self, state: SqlLinkState) -> None:
        self._state = state

    def messages(
        self, request: PushAppMessagesRequest, objects: Sequence[PushObjectRequest], task: Task
    ) -> PushAppMessagesResponse:
        """Store messages for sites and the objects that came with them; the answer names those that are missing.

        Raises NotGiven.
        """
        with self._state.session():
            answer = runtime_handlers.push_messages(request, self._state, task)
            missing = set(answer.objects_to_push)
            store(self._state, [one for one in objects if one.object_id in missing], answer.session_id)
        left = missing - {one.object_id for one in objects}
        del answer.objects_to_push[:]
        answer.objects_to_push.extend(sorted(left))
        return answer

    def message_objects(self, objects: Sequence[PushObjectRequest]) -> list[PushObjectResponse]:
        """Store further objects of messages. Raises NotGiven."""
        with self._state.session():
            store(self._state, not_there(self._state, objects), objects[0].session_id)
        return [PushObjectResponse(stored=True)] * len(objects)

    def replies(
        self, request: PullAppMessagesRequest, confirmed: Sequence[ConfirmMessageReceivedRequest], task: Task
    ) -> PullAppMessagesResponse:
        """Give up the replies that have arrived, and announce others."""
        with self._state.session():
            for one in confirmed:
                self._state.object_store.delete(one.message_object_id)
            return runtime_handlers.pull_messages(request, self._state, task)

    def objects(self, requests: Sequence[PullObjectRequest]) -> list[PullObjectResponse]:
        """Return the first of the objects, as many as an answer has room for."""
        with self._state.session():
            return stored_objects(self._state, requests)
