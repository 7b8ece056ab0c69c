"""The process that a study runs in: `python -m permmoe_server.coordination.study_process FOLDER`, with a run's token as
its standard input.

It stands in the place of `flwr-serverapp`, which unpacks the run's bundle and runs the code in it. This one runs the
app that is installed (permmoe_server.app), whatever the bundle says, and refuses a bundle that is not ours.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import httpx
from flwr.common.constant import SubStatus
from flwr.common.serde import context_from_proto, run_from_proto
from flwr.proto.runtime_pb2 import PullTaskInputRequest, PullTaskInputResponse, PushTaskOutputRequest
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.utils import disable_process_dumping
from flwr.superlink.grid.http_grid import HttpGrid

from permmoe_server.app import app
from permmoe_server.coordination.local_socket import connected
from permmoe_server.coordination.pointer import is_pointer
from permmoe_server.coordination.process_log import log_process
from permmoe_server.provisioning.federation_folder import FederationFolder

LOG = logging.getLogger("permmoe.server")


class OtherBundle(Exception):
    """The run's bundle is not the one that we ship."""


def main(folder: FederationFolder, token: str) -> bool:
    """Run the study, and tell the superlink how it ended; return whether it came to its end."""
    log_process(folder)
    disable_process_dumping(strict=False)
    client = connected(
        RuntimeHttpClient,
        folder.superlink_socket,
        "flwr-serverapp",
        RuntimeTokenHttpInterceptor(token=token),
        retry_invoker=make_simple_http_retry_invoker(),
    )
    # Where the superlink has given the run up, the next heartbeat interrupts this process.
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    output = PushTaskOutputRequest(sub_status=SubStatus.FAILED, details="The study's process was stopped.")
    try:
        task = client.PullTaskInput(PullTaskInputRequest())
        output.context.CopyFrom(task.context)
        run(client, task, token)
        output.sub_status, output.details = SubStatus.COMPLETED, ""
    except Exception as error:
        LOG.exception("the study ended early")
        output.details = f"{type(error).__name__}: {error}"
    finally:
        try:
            client.PushTaskOutput(output)
        except httpx.HTTPError as error:
            LOG.error("the superlink cannot be told how the study ended: %s", type(error).__name__)
    return output.sub_status == SubStatus.COMPLETED


def run(client: RuntimeHttpClient, task: PullTaskInputResponse, token: str) -> None:
    """Run the app on a task. Raises OtherBundle before anything of another bundle is read, and what the app raises."""
    # "Nothing runs but what we ship."
    if not is_pointer(task.fab.content):
        raise OtherBundle("the run came with another bundle than ours, and is not started")
    TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, task.run.run_id
    TaskIdentity.node_id = task.context.node_id
    grid = HttpGrid("superlink", insecure=True, token=token)
    grid._client = client
    grid.set_run(run_from_proto(task.run))
    context = context_from_proto(task.context)
    context.run_config = dict(run_from_proto(task.run).override_config)
    app(grid=grid, context=context)


if __name__ == "__main__":
    sys.exit(0 if main(FederationFolder(Path(sys.argv[1])), sys.stdin.read().strip()) else 1)
