"""Flower's Grid in one process: the same server and client apps as in a hospital, without sockets, Ray or waiting."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from math import inf
from uuid import uuid4

from flwr.app import Context, Message, RecordDict
from flwr.app.message.message import make_message
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from permmoe.federated.records import content_bytes
from permmoe_simulation.engines.client_workers import Answer, ClientWorkers, answered

COORDINATOR_NODE = 1
FIRST_NODE = 1001
Attendance = Mapping[int, tuple[int, int]]
"""First and last round (a message's group) of nodes that are not there in all of them."""


@dataclass(frozen=True)
class Job:
    """A message on its way: not worked on yet, or with the workers."""

    message: Message
    future: Future[Answer] | None = None


class InProcessGrid(Grid):
    """Nodes FIRST_NODE, FIRST_NODE + 1, … run one client app, each with its own configuration and state.

    Without workers a message is worked on when its reply is pulled, one reply a pull, so that no more than one reply
    is in memory; with workers they are given it as it is sent. The grid closes them.

    `is_serialised` sends every message through Flower's own wire format. An exception of the client app becomes an
    error reply that holds its text, as in Flower; one of the workers is raised where the reply is pulled.
    """

    def __init__(
        self,
        client_app: ClientApp,
        node_configs: Sequence[Mapping[str, str]],
        run_config: Mapping[str, str] | None = None,
        *,
        workers: ClientWorkers | None = None,
        is_serialised: bool = False,
        attendance: Attendance | None = None,
    ) -> None:
        self._attendance = attendance or {}
        self._app, self._is_serialised = client_app, is_serialised
        self._run = Run.create_empty(run_id=secrets.randbits(62) + 1)
        run_settings: UserConfig = dict(run_config or {})
        self._contexts = {
            FIRST_NODE + i: Context(self._run.run_id, FIRST_NODE + i, dict(config), RecordDict(), dict(run_settings))
            for i, config in enumerate(node_configs)
        }
        self._workers = workers
        self._jobs: dict[str, Job] = {}
        self.bytes_down: Counter[int] = Counter()
        """Payload sent to each node, bytes."""
        self.bytes_up: Counter[int] = Counter()
        """Payload of each node's replies, bytes."""
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, self._run.run_id, COORDINATOR_NODE

    def close(self) -> None:
        """Close the workers."""
        if self._workers:
            self._workers.close()

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Identifiers of the messages; one to an unknown or absent node has an empty one, as in Flower."""
        identifiers: list[str] = []
        for message in messages:
            node = message.metadata.dst_node_id
            first, last = self._attendance.get(node, (0, inf))
            if node not in self._contexts or not first <= float(message.metadata.group_id) <= last:
                identifiers.append("")
                continue
            identifier = uuid4().hex
            message.metadata.__dict__["_message_id"] = identifier
            sent = make_message(metadata=message.metadata, content=self._carried(message.content))
            self.bytes_down[node] += content_bytes(message.content)
            self._jobs[identifier] = Job(sent, self._submitted(sent, node))
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are there; identifiers without a waiting message are passed over."""
        replies: list[Message] = []
        for identifier in message_ids:
            job = self._jobs.get(identifier)
            if job is None or (job.future and not job.future.done()):
                continue
            del self._jobs[identifier]
            replies.append(self._reply(job))
            if not job.future:
                break
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        waiting = set(self.push_messages(messages))
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        replies: list[Message] = []
        while waiting and time.monotonic() < deadline:
            arrived = list(self.pull_messages(sorted(waiting)))
            replies += arrived
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            if waiting and not arrived:
                time.sleep(0.01)
        return replies

    def _submitted(self, message: Message, node: int) -> Future[Answer] | None:
        return self._workers.submit(self._app, message, self._contexts[node]) if self._workers else None

    def _reply(self, job: Job) -> Message:
        node = job.message.metadata.dst_node_id
        if job.future:
            reply, context = job.future.result()
        else:
            reply, context = answered(self._app, job.message, self._contexts[node])
        self._contexts[node] = context
        if reply.has_content():
            reply = make_message(metadata=reply.metadata, content=self._carried(reply.content))
            self.bytes_up[node] += content_bytes(reply.content)
        reply.metadata.__dict__["_message_id"] = uuid4().hex
        return reply

    def _carried(self, content: RecordDict) -> RecordDict:
        """The content as its receiver sees it: records of its own, around arrays whose bytes nobody can change."""
        if self._is_serialised:
            objects = get_all_nested_objects(content)
            wire = {identifier: thing.deflate() for identifier, thing in objects.items()}
            inflated = inflate_object_from_contents(content.object_id, wire)
            assert isinstance(inflated, RecordDict)
            return inflated
        return RecordDict({name: record.copy() for name, record in content.items()})


def run_in_process(
    server_app: ServerApp,
    client_app: ClientApp,
    node_configs: Sequence[Mapping[str, str]],
    run_config: Mapping[str, str],
    *,
    workers: ClientWorkers | None = None,
    is_serialised: bool = False,
    attendance: Attendance | None = None,
    make_grid: Callable[..., InProcessGrid] = InProcessGrid,
) -> InProcessGrid:
    """Run a server app to its end; the grid that it ran on, for its counters."""
    grid = make_grid(
        client_app, node_configs, run_config, workers=workers, is_serialised=is_serialised, attendance=attendance
    )
    try:
        server_app(grid, Context(grid.run.run_id, COORDINATOR_NODE, {}, RecordDict(), dict(run_config)))
    finally:
        grid.close()
    return grid
