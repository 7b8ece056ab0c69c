"""Starts the study's process for a run: `python -m permmoe_server.coordination.executor_process FOLDER`.

It stands in the place of `flower-superexec`, which starts whatever bundle a run comes with, and shows the token of the
run on a command line, where every user of the machine can read it. This one knows one program, and tells it the token
through a pipe.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.utils import disable_process_dumping

from permmoe_server.coordination.local_socket import connected
from permmoe_server.coordination.pointer import pointer
from permmoe_server.coordination.process_log import log_process
from permmoe_server.provisioning.federation_folder import FederationFolder

LOG = logging.getLogger("permmoe.server")

POLL_SECONDS = 1.0
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


def main(folder: FederationFolder) -> None:
    """Start a process for each run, until killed. They end with this one."""
    log_process(folder)
    disable_process_dumping(strict=False)
    secret = load_superexec_auth_secret(secret_file=str(folder.executor_secret))
    assert secret, "a secret is loaded, or the loader raises"
    signer = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={ACQUIRE})
    client = connected(RuntimeHttpClient, folder.superlink_socket, "SuperExec", signer)
    running: list[subprocess.Popen[bytes]] = []
    while True:
        running = [process for process in running if process.poll() is None]
        # The superlink is being started, for the first time or again.
        with suppress(httpx.HTTPError):
            answer = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
            if answer.token and answer.task.fab_hash == pointer().hash_str:
                running.append(_start(folder, answer.token))
            elif answer.token:
                LOG.error("a run of another bundle than ours is not started")
        time.sleep(POLL_SECONDS)


def _start(folder: FederationFolder, token: str) -> subprocess.Popen[bytes]:
    tether = [sys.executable, "-m", "permmoe_server.coordination.tether"]
    study = [sys.executable, "-m", "permmoe_server.coordination.study_process", str(folder.path)]
    process = subprocess.Popen([*tether, *study], stdin=subprocess.PIPE)
    assert process.stdin
    with process.stdin as pipe:
        pipe.write(token.encode())
    return process


if __name__ == "__main__":
    main(FederationFolder(Path(sys.argv[1])))
