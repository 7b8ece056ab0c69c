"""Flower's superlink as the coordinator starts it, at its socket, with nodes and the process of a run before it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from permmoe.federated.message_paths import HEARTBEAT_SECONDS
from permmoe_client.connection.fleet import Fleet
from permmoe_server.coordination.executor_process import ACQUIRE
from permmoe_server.coordination.local_socket import connected
from permmoe_server.coordination.nonblocking_grid import NonblockingGrid
from permmoe_server.coordination.programs import prepare
from permmoe_server.coordination.superlink import Superlink, SuperlinkAway
from permmoe_server.protocol.reply_sizes import ReplySize
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.federation_folder import FederationFolder
from tests.support.patience import PATIENCE_SECONDS


@dataclass
class RealSuperlink:
    """A superlink that runs, and can be killed and started again."""

    folder: FederationFolder
    process: subprocess.Popen[bytes]
    keys: dict[int, ec.EllipticCurvePublicKey] = field(default_factory=dict)
    """Of the sites by node, as a study's process has them of the roster."""

    @classmethod
    def founded(cls, path: Path) -> RealSuperlink:
        folder = FederationFolder(path)
        administration.init(folder, "Messages", "127.0.0.1", 8443)
        folder.state.mkdir(exist_ok=True)
        prepare(folder)
        return cls(folder, _started(folder))

    def restart(self) -> None:
        """Kill it at once, and start another on the same database."""
        self.process.kill()
        self.process.wait()
        self.process = _started(self.folder)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    @contextmanager
    def control(self) -> Iterator[Superlink]:
        superlink = Superlink(self.folder.superlink_socket)
        try:
            yield superlink
        finally:
            superlink.close()

    def site(self, key: ec.EllipticCurvePrivateKey | None = None) -> Fleet:
        """The connection of a new site, or of one that has this key."""
        if key is None:
            key = ec.generate_private_key(ec.SECP384R1())
            with self.control() as superlink:
                superlink.register(openssh(key), "site")
        client = self.fleet_client(key)
        request = ActivateNodeRequest(
            public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=HEARTBEAT_SECONDS
        )
        node = Node(node_id=client.ActivateNode(request).node_id)
        self.keys[node.node_id] = key.public_key()
        return Fleet(client, node, key, threading.Event())

    def fleet_client(self, key: ec.EllipticCurvePrivateKey) -> FleetHttpClient:
        """A site's requests, signed with this key."""
        return connected(
            FleetHttpClient, self.folder.superlink_socket, "SuperNode", NodeAuthHttpInterceptor(key, key.public_key())
        )

    def untrusting(self, grid: HttpGrid, size: ReplySize) -> NonblockingGrid:
        """The grid of a study's process over its connection; no reply is larger than this size."""
        return NonblockingGrid(grid, lambda _: size, lambda: self.keys)

    def grid(self) -> HttpGrid:
        """The connection of the process of a new run."""
        with self.control() as superlink:
            run_id = superlink.start_run({})
        secret = load_superexec_auth_secret(secret_file=str(self.folder.executor_secret))
        assert secret
        signer = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={ACQUIRE})
        executor = connected(RuntimeHttpClient, self.folder.superlink_socket, "SuperExec", signer)
        token = executor.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])).token
        client = connected(
            RuntimeHttpClient, self.folder.superlink_socket, "flwr-serverapp", RuntimeTokenHttpInterceptor(token=token)
        )
        task = client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, run_id
        TaskIdentity.node_id = task.context.node_id
        grid = HttpGrid("superlink", insecure=True, token=token)
        grid._client = client
        grid.set_run(Run.create_empty(run_id))
        return grid


def openssh(key: ec.EllipticCurvePrivateKey) -> str:
    """A key as a roster has it."""
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_key().public_bytes(encoding, form).decode()


def _started(folder: FederationFolder) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "permmoe_server.coordination.superlink_process", str(folder.path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    end = time.monotonic() + PATIENCE_SECONDS
    superlink = Superlink(folder.superlink_socket)
    try:
        while time.monotonic() < end:
            with suppress(SuperlinkAway, httpx.HTTPError):
                superlink.nodes()
                return process
            assert process.poll() is None, "the superlink ended"
            time.sleep(0.1)
    finally:
        superlink.close()
    raise AssertionError("the superlink does not answer")
