"""The coordinator's requests to a superlink: list and register nodes, start a run, report how the run stands.

The command `flwr` does the same from a shell, but takes two seconds for each request. This file uses private names of
Flower (as permmoe_server.coordination.nonblocking_grid does), so a new version of Flower has to be tried against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from permmoe.federated.message_paths import post
from permmoe_server.coordination.local_socket import connected
from permmoe_server.coordination.pointer import pointer
from permmoe_server.provisioning.region_papers import (
    PAPERS_PATH,
    RegionNews,
    RegionPapers,
    read_region_news,
    write_region_papers,
)

Answer = TypeVar("Answer")


class SuperlinkAway(Exception):
    """The superlink did not answer."""


@dataclass(frozen=True)
class NodeState:
    """A registered key as the superlink sees it."""

    node_id: int
    public_key: bytes
    is_online: bool


@dataclass(frozen=True)
class RunState:
    """The state of a run."""

    is_finished: bool
    is_completed: bool
    """True where the run ended by itself and without an error."""
    detail: str


class Superlink:
    """A connection to the superlink at its socket. Each request raises SuperlinkAway without an answer."""

    def __init__(self, path: Path) -> None:
        self._client = connected(ControlHttpClient, path, "flwr CLI")

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def nodes(self) -> tuple[NodeState, ...]:
        """Return every registered key."""
        answer = _answer_of(lambda: self._client.ListNodes(ListNodesRequest()))
        return tuple(
            NodeState(node.node_id, node.public_key, node.status == "online")
            for node in answer.nodes_info
            if node.status != "unregistered"
        )

    def register(self, public_key: str, name: str) -> int:
        """Let a site's key in, given as OpenSSH writes it; return the node's identifier."""
        request = RegisterNodeRequest(public_key=key_bytes(public_key), name=name)
        return int(_answer_of(lambda: self._client.RegisterNode(request)).node_id)

    def unregister(self, node_id: int) -> None:
        """Shut a site's key out."""
        _answer_of(lambda: self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id)))

    def start_run(self, run_config: Mapping[str, str]) -> int:
        """Start the ServerApp with these settings; return the run's identifier."""
        request = StartRunRequest(fab=fab_to_proto(pointer()), override_config=user_config_to_proto(dict(run_config)))
        return int(_answer_of(lambda: self._client.StartRun(request)).run_id)

    def hand_over(self, papers: RegionPapers) -> RegionNews:
        """Bring a region its papers; return what its gateway has seen. Raises ValueError for another answer."""
        body = write_region_papers(papers)
        return read_region_news(_answer_of(lambda: post(self._client, PAPERS_PATH, body)))

    def run_state(self, run_id: int) -> RunState:
        """Return the state of a run."""
        answer = _answer_of(lambda: self._client.ListRuns(ListRunsRequest(run_id=run_id)))
        status = answer.run_dict[run_id].status
        return RunState(
            status.status == "finished",
            status.sub_status == "completed",
            f"{status.status} {status.sub_status} {status.details}".strip(),
        )


@lru_cache(maxsize=4096)
def key_bytes(public_key: str) -> bytes:
    """Return a roster's key in the form in which a superlink keeps it."""
    key = load_ssh_public_key(public_key.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return bytes(public_key_to_bytes(key))


def _answer_of(call: Callable[[], Answer]) -> Answer:
    try:
        return call()
    except httpx.HTTPError as error:
        raise SuperlinkAway(type(error).__name__) from error
