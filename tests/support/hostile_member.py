"""A member of the federation, with its own key and over real TLS, whose replies are whatever a test makes of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import httpx
from flwr.app import Message, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Metadata as ProtoMetadata
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node

from permmoe.federated.approval_question import APPROVAL_MESSAGE, ApprovalAnswer, write_answer
from permmoe.federated.message_paths import REPLY, post
from permmoe.federated.parcel import joined
from permmoe_client.connection.fleet import Fleet, Refused, Unreachable, connect
from permmoe_client.connection.identity import client_context, load_key
from permmoe_client.site import read_site
from tests.support.replying_superlink import Sent

Attack = Callable[[Message, int], Sent]
"""Makes the reply to a message, of a member with this node's number."""
Envelope = Callable[[PushMessagesRequest], None]
"""Changes the request that announces a reply."""


def reply_requests(
    reply: Sent, asked: ProtoMetadata | Metadata, node: Node
) -> tuple[PushMessagesRequest, list[PushObjectRequest]]:
    """The requests by which a packed reply to a message reaches the superlink."""
    created, run = time.time(), asked.run_id
    header = Metadata(
        run, reply.root, node.node_id, asked.src_node_id, asked.message_id, asked.group_id, created,
        asked.created_at + asked.ttl - created - 1, asked.message_type,
    )  # fmt: skip
    announced = message_to_proto(remove_content_from_message(make_message(header, content=RecordDict())))
    objects = [
        PushObjectRequest(node=node, run_id=run, object_id=name, object_content=content)
        for name, content in reply.objects.items()
    ]
    return PushMessagesRequest(node=node, messages_list=[announced], message_object_trees=[reply.tree]), objects


class HostileMember:
    """It says that it has approved the study, answers with one signed attack after another, and then no more."""

    def __init__(self, site: Path, attacks: Iterable[Attack], envelope: Envelope = lambda request: None) -> None:
        self._site, self._attacks, self._envelope = site, iter(attacks), envelope
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.statuses: list[int] = []
        """The HTTP status of each announcement of a reply."""
        self.asked: list[Message] = []

    def __enter__(self) -> HostileMember:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        coordinator = read_site(self._site).coordinator
        assert coordinator
        tls, key = client_context(coordinator), load_key(coordinator.key)
        while not self._stop.wait(0.5):
            with (
                suppress(Unreachable, Refused),
                connect(coordinator.host, coordinator.port, tls, key, self._stop) as fleet,
            ):
                while not self._stop.wait(0.1):
                    if message := fleet.receive():
                        self._answer(fleet, message)

    def _answer(self, fleet: Fleet, message: Message) -> None:
        if message.metadata.message_type == APPROVAL_MESSAGE:
            fleet.send(Message(write_answer(ApprovalAnswer(has_approved=True)), reply_to=message), 0.0)
            return
        self.asked.append(message)
        attack = next(self._attacks, None)
        if attack is None:
            return
        reply = attack(message, fleet.node_id).signed(fleet._key)
        request, objects = reply_requests(reply, message.metadata, fleet._node)
        self._envelope(request)
        body = joined(one.SerializeToString() for one in (request, *objects))  # type: ignore[attr-defined]
        try:
            post(fleet._client, REPLY, body)
        except httpx.HTTPStatusError as error:
            self.statuses.append(error.response.status_code)
            return
        self.statuses.append(200)
