"""A run of the study in a region's superlink, for as long as the study's process works with the region.

The coordinator's own superlink has an executor, which starts the study's process for a run. A region has none: the
study's process begins a run of its own there, and another one where the region has forgotten it. Its token leaves the
process for the region's superlink alone.

This file uses private names of Flower, as do permmoe_server.coordination.superlink and the files of its processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from flwr.common.constant import SubStatus
from flwr.common.serde import run_from_proto
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid

from permmoe_server.coordination.executor_process import ACQUIRE
from permmoe_server.coordination.local_socket import connected
from permmoe_server.coordination.superlink import Superlink, SuperlinkAway
from permmoe_server.provisioning.federation_folder import FederationFolder

RETRY_SECONDS = 10.0
"""How long a request is made again: the region's superlink, or the line to it, may be started again meanwhile."""
MOST_LEFT_BEHIND = 100
"""Tasks that processes may have left that were killed between beginning a run and taking it up."""
BROKEN_LINE = (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


@contextmanager
def region_run(folder: FederationFolder) -> Iterator[HttpGrid]:
    """Yield Flower's connection for a new run in the superlink of a region's folder, and end the run with the block.

    Raises SuperlinkAway, httpx.HTTPError, and whatever else answers that are none make Flower raise.
    """
    token = _begun(folder)
    client = connected(
        RuntimeHttpClient,
        folder.superlink_socket,
        "flwr-serverapp",
        RuntimeTokenHttpInterceptor(token=token),
        retry_invoker=RetryInvoker(exponential, BROKEN_LINE, max_tries=None, max_time=RETRY_SECONDS),
    )
    heartbeat = HeartbeatSender(lambda: _beats(client))
    try:
        task = client.PullTaskInput(PullTaskInputRequest())
        heartbeat.start()
        grid = HttpGrid("superlink", insecure=True, token=token)
        grid._client = client
        grid.set_run(run_from_proto(task.run))
        yield grid
        client.PushTaskOutput(PushTaskOutputRequest(context=task.context, sub_status=SubStatus.COMPLETED))
    finally:
        if heartbeat.is_running:
            heartbeat.stop()
        client.close()


def _begun(folder: FederationFolder) -> str:
    """Begin a run and return its token."""
    secret = load_superexec_auth_secret(secret_file=str(folder.executor_secret))
    assert secret, "a secret is loaded, or the loader raises"
    signer = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={ACQUIRE})
    superlink = Superlink(folder.superlink_socket)
    executor = connected(RuntimeHttpClient, folder.superlink_socket, "SuperExec", signer)
    request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
    try:
        # The superlink hands out its oldest task. It gives up those that nobody works on.
        for _ in range(MOST_LEFT_BEHIND):
            if not executor.AcquireTask(request).token:
                break
        run_id, answer = superlink.start_run({}), executor.AcquireTask(request)
        if answer.task.run_id != run_id:
            raise SuperlinkAway("another run than the one that was begun")
        return answer.token
    finally:
        executor.close()
        superlink.close()


def _beats(client: RuntimeHttpClient) -> bool:
    try:
        return bool(client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)
    # A run that was given up shows in the next request of the grid.
    except httpx.HTTPError:
        return False
