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
from flwr.proto.message_pb2 import PushObjectRequest

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


class HostileMember:
    """It says that it has approved the study, answers with one attack after another, and then no more."""

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
        reply = attack(message, fleet.node_id).packed()
        run, client, node = message.metadata.run_id, fleet._client, fleet._node
        created, ttl = time.time(), message.metadata.created_at + message.metadata.ttl - time.time() - 1
        header = Metadata(
            run, reply.root, fleet.node_id, message.metadata.src_node_id, message.metadata.message_id,
            message.metadata.group_id, created, ttl, message.metadata.message_type,
        )  # fmt: skip
        announced = message_to_proto(remove_content_from_message(make_message(header, content=RecordDict())))
        request = PushMessagesRequest(node=node, messages_list=[announced], message_object_trees=[reply.tree])
        self._envelope(request)
        objects = [
            PushObjectRequest(node=node, run_id=run, object_id=name, object_content=content)
            for name, content in reply.objects.items()
        ]
        body = joined(one.SerializeToString() for one in (request, *objects))  # type: ignore[attr-defined]
        try:
            post(client, REPLY, body)
        except httpx.HTTPStatusError as error:
            self.statuses.append(error.response.status_code)
            return
        self.statuses.append(200)
