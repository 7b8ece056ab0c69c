"""Another user of the coordinator's machine, beside a running coordinator: there is nothing that it can reach."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.proto.control_pb2 import ListNodesRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.runtime import RuntimeHttpClient

from permmoe_server.coordination.local_socket import connected
from permmoe_server.coordination.message_desk import DESK_PATHS
from permmoe_server.coordination.pointer import pointer
from permmoe_server.coordination.superlink_door import FLOWER_PATHS
from permmoe_server.provisioning.region_papers import PAPERS_PATH
from permmoe_server.settings import read_server
from permmoe_simulation.engines.local_deployment import Deployment, ended
from tests.server.coordination.test_superlink_door import other_bundle
from tests.support.federation_processes import deploy_tiny, start_client, start_server
from tests.support.tiny_federation import SITES, tiny_plan

pytestmark = [
    pytest.mark.xdist_group("deployment"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]
NOBODY = 65534


@pytest.fixture(scope="module")
def running() -> Iterator[Deployment]:
    """A coordinator in the middle of a study, in a folder that everybody may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    deployment = deploy_tiny(folder / "there", tiny_plan(rounds=500, evaluate_every=0))
    processes = []
    try:
        with ended(processes):
            processes.append(start_server(deployment, "--study", str(folder / "there" / "study.yaml"), "--stay"))
            processes += [start_client(deployment, name) for name in SITES]
            deployment.wait_for(lambda status: status.rounds_done >= 1, "a round", 120.0)
            yield deployment
    finally:
        shutil.rmtree(folder)


def as_nobody(attack: Callable[[], Any]) -> Any:
    """What a function returns in a process of another user, which has no group of ours."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            answer = json.dumps(attack())
        except BaseException:
            answer = json.dumps(f"failed: {traceback.format_exc()}")
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text)


def family(deployment: Deployment) -> list[int]:
    """The coordinator's processes: those whose command line names its folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(deployment.folder.path).encode() in command:
            found.append(int(process.name))
    return found


def ports_of_this_machine() -> list[int]:
    """Every TCP port that somebody listens at, as any user can see."""
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    listening = [line.split()[1] for table in tables for line in table if line.split()[3] == "0A"]
    return sorted({int(address.split(":")[1], 16) for address in listening})


def listening_ports(deployment: Deployment) -> list[int]:
    """The ports of the coordinator's own processes, and of the coordinator."""
    settings = read_server(deployment.folder.settings)
    return [settings.port, settings.admin_port, settings.health_port]


def test_another_user_reaches_the_superlink_neither_at_a_port_nor_at_its_socket(running: Deployment) -> None:
    address = running.folder.superlink_socket

    def attack() -> dict[str, Any]:
        took: list[str] = []
        for port in ports_of_this_machine():
            for scheme in ("http", "https"):
                for path in sorted(FLOWER_PATHS | DESK_PATHS | {PAPERS_PATH}):
                    try:
                        answer = httpx.post(
                            f"{scheme}://127.0.0.1:{port}{path}",
                            content=b"",
                            headers={"content-type": "application/protobuf"},
                            verify=False,
                            timeout=5.0,
                        )
                    except httpx.HTTPError:
                        break
                    if answer.status_code < 400 or "protobuf" in answer.headers.get("content-type", ""):
                        took.append(f"{port}{path}")
                    if answer.status_code in (404, 405):
                        break
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(address))
        except OSError as error:
            return {"took": took, "socket": type(error).__name__}
        return {"took": took, "socket": "connected"}

    assert as_nobody(attack) == {"took": [], "socket": "PermissionError"}


def test_the_ports_that_are_open_ask_for_a_certificate_or_are_the_status_page(running: Deployment) -> None:
    gateway, *others = listening_ports(running)

    def attack() -> str:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with socket.create_connection(("127.0.0.1", gateway), 10) as plain, context.wrap_socket(plain) as client:
                client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
                return client.recv(100).decode() or "cut off"
        except (ssl.SSLError, ConnectionError):
            return "cut off"

    assert as_nobody(attack) == "cut off" and len(others) == 2


def test_another_user_reads_no_file_of_the_federation_and_sees_no_secret_of_its_processes(running: Deployment) -> None:
    files = [str(path) for path in running.folder.path.rglob("*") if path.is_file() or path.is_socket()]
    processes = family(running)
    assert any(file.endswith("ca.key") for file in files) and len(processes) >= 4

    def attack() -> dict[str, list[str]]:
        readable, told = [], []
        for file in files:
            try:
                Path(file).open("rb").close()
                readable.append(file)
            except OSError:
                pass
        for process in processes:
            for name in ("environ", "cmdline", "mem"):
                try:
                    seen = Path(f"/proc/{process}/{name}").read_bytes()
                except OSError:
                    continue
                if name != "cmdline" or b"token" in seen:
                    told.append(f"{process} {name}")
        return {"readable": readable, "told": told}

    assert as_nobody(attack) == {"readable": [], "told": []}


def test_a_run_of_another_bundle_is_refused_to_the_coordinators_own_user_too(running: Deployment) -> None:
    client = connected(ControlHttpClient, running.folder.superlink_socket, "flwr CLI")
    before = len(client.ListNodes(ListNodesRequest()).nodes_info)
    assert before == len(SITES)
    for request in (
        StartRunRequest(fab=Fab(hash_str=pointer().hash_str, content=other_bundle())),
        StartRunRequest(app_spec="@flwrlabs/quickstart"),
    ):
        with pytest.raises(httpx.HTTPStatusError) as refused:
            client.StartRun(request)
        assert refused.value.response.status_code == 403 and "bundle" in refused.value.response.text


def test_without_the_secret_of_this_start_nobody_is_told_what_to_run(running: Deployment) -> None:
    client = connected(RuntimeHttpClient, running.folder.superlink_socket, "SuperExec")
    with pytest.raises(httpx.HTTPStatusError) as refused:
        client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
    assert refused.value.response.status_code in (401, 403)
