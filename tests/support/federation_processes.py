"""Real processes for tests: the tiny federation deployed, its parts found and killed, its network cut."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from permmoe.federated.instructions import read_instruction
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe_client.app import app as client_app
from permmoe_server.app import app as server_app
from permmoe_server.settings import read_server
from permmoe_simulation.engines.grid import FIRST_NODE, run_in_process
from permmoe_simulation.engines.local_deployment import Deployment, deploy, join, wait_for
from tests.support.patience import PATIENCE_SECONDS
from tests.support.tiny_federation import SITES, approve, write_site

PROGRAMS = {
    "superlink": "permmoe_server.coordination.superlink_process",
    "gateway": "permmoe_server.gateway.process",
    "executor": "permmoe_server.coordination.executor_process",
    "server app": "permmoe_server.coordination.study_process",
}


# What a hospital and a coordinator import, the first training included: four seconds of work for each process.
IMPORTED = [
    "permmoe_client.cli",
    "permmoe_client.connection.node",
    "permmoe_server.cli",
    "permmoe_server.coordination.coordinator",
    "permmoe_server.coordination.region",
]
IMPORTED += [
    "permmoe_server.studies.judged_model",
    "permmoe_server.app",
    "permmoe_simulation.engines.grid",
    "torch._dynamo",
]


class Started:
    """A program in a process of its own, forked from one that has imported everything already.

    It has the methods of subprocess.Popen that tests use.
    """

    def __init__(self, program: str, log: Path, *arguments: str) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(IMPORTED)
        self._process = forks.Process(target=_become, args=(program, log, arguments), daemon=True)
        self._process.start()
        assert self._process.pid
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int:
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, seconds or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def _become(program: str, log: Path, arguments: tuple[str, ...]) -> None:
    """Be a command, such as permmoe-client, from its first line on."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.argv = [program, *arguments]
    importlib.import_module(f"{program.replace('-', '_')}.cli").main()


def start_server(deployment: Deployment, *arguments: str) -> Started:
    """As Deployment.start_server, without the seconds that imports take; returns once hospitals can connect."""
    log, settings = deployment.logs / "server.log", deployment.folder.settings
    server = Started("permmoe-server", log, "--config", str(settings), *arguments)
    wait_for(lambda: is_open(read_server(settings).port) or None, "an open gateway", PATIENCE_SECONDS)
    return server


def start_region(deployment: Deployment, name: str) -> Started:
    """As Deployment.start_region, without the seconds that imports take; returns once its hospitals can connect."""
    folder = deployment.folder.region(name)
    region = Started("permmoe-server", deployment.logs / f"region-{name}.log", "region", str(folder.path))
    wait_for(lambda: is_open(read_server(folder.settings).port) or None, f"region {name}", PATIENCE_SECONDS)
    return region


def start_lying_region(deployment: Deployment, name: str, site: str, *lies: str) -> subprocess.Popen[bytes]:
    """A region that answers in its one hospital's place (tests.support.lying_region)."""
    folder = deployment.folder.region(name)
    command = [sys.executable, "-m", "tests.support.lying_region", "region", str(folder.path), site, *lies]
    deployment.logs.mkdir(parents=True, exist_ok=True)
    with (deployment.logs / f"region-{name}.log").open("ab") as log:
        region = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=log, stderr=log)
    wait_for(lambda: is_open(read_server(folder.settings).port) or None, f"region {name}", PATIENCE_SECONDS)
    return region


def start_client(deployment: Deployment, site: str) -> Started:
    """As Deployment.start_client, without the seconds that imports take."""
    return Started("permmoe-client", deployment.logs / f"{site}.log", "--site", str(deployment.sites[site]))


def is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def let_a_minute_pass(deployment: Deployment) -> None:
    """Flower waits a minute for a sign of life of the server app before it believes its death; so here it has passed.

    The superlink finds in its own database that the time is over, and does then what it does.
    """
    with sqlite3.connect(deployment.folder.state / "superlink.db", timeout=20) as database:
        changed = database.execute("UPDATE task SET active_until = running_at WHERE finished_at IS NULL")
    assert changed.rowcount == 1


def deploy_tiny(
    folder: Path,
    plan: RoundPlan,
    sites: Mapping[str, Mapping[str, Any]] | None = None,
    regions: Mapping[str, Collection[str]] | None = None,
    names: Collection[str] = tuple(SITES),
) -> Deployment:
    """The tiny federation with the study in `study.yaml`, approved by every site; `regions`: region -> its sites."""
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(plan.model_dump(mode="json")))
    own = {name: _settings(folder, plan, name) | dict((sites or {}).get(name, {})) for name in names}
    return deploy(folder, "Tiny", own, regions=regions)


def join_tiny(deployment: Deployment, plan: RoundPlan, name: str, region: str) -> Deployment:
    """The tiny federation with one more of its sites, which has approved the study, in a region."""
    own = _settings(deployment.folder.path.parent, plan, name)
    return replace(deployment, sites={**deployment.sites, name: join(deployment.folder, name, own, region)})


def _settings(folder: Path, plan: RoundPlan, name: str) -> dict[str, Any]:
    settings = yaml.safe_load(write_site(folder, name).read_text())
    settings |= {"manifest": str(folder / settings["manifest"]), "cache": str(folder / settings["cache"])}
    return {**settings, "threads": 1, "device": "cpu", "approved_studies": [plan.digest()]}


def find(server: int, program: str) -> int | None:
    """The process of one of a coordinator's programs; None while it does not run."""
    waiting = [server]
    while waiting:
        process = waiting.pop()
        with suppress(OSError):
            command = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
            is_child = process != server and "permmoe_server.coordination.tether" not in command
            if is_child and any(part.endswith(PROGRAMS[program]) for part in command[:3]):
                return process
            children = Path(f"/proc/{process}/task/{process}/children").read_text()
            waiting += map(int, children.split())
    return None


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def final_weights(deployment: Deployment) -> Mapping[str, torch.Tensor]:
    [study] = [path for path in deployment.folder.studies.iterdir() if path.is_dir()]
    return {name: t for name, t in load_checkpoint(study / "last")[0].items() if name.startswith("weights:")}


def replayed(folder: Path, plan: RoundPlan, records: list[dict[str, Any]]) -> Mapping[str, torch.Tensor]:
    """The weights of an undisturbed federation in one process that gets exactly the replies that were accepted."""
    folder.mkdir()
    (folder / "plan.json").write_text(plan.canonical_json())
    nodes = []
    for name in SITES:
        nodes.append({"site-config": str(approve(write_site(folder, name), plan))})
    names = dict(zip(range(FIRST_NODE, FIRST_NODE + len(nodes)), SITES, strict=True))
    accepted = {
        r["round"]: {site["site"] for site in r["sites"] if site["rejected"] is None}
        for r in records
        if r["is_aggregated"]
    }
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if names[context.node_id] not in accepted[read_instruction(message.content).round]:
            raise RuntimeError("was not there")
        return client_app(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return client_app(message, context)

    run_in_process(server_app, app, nodes, {"plan": str(folder / "plan.json"), "out": str(folder / "out")})
    weights, _ = load_checkpoint(folder / "out" / "last")
    return {name: tensor for name, tensor in weights.items() if name.startswith("weights:")}


class Network:
    """A cable between a site and the gateway, which can be pulled out and put back."""

    def __init__(self, port: int) -> None:
        self._target, self._is_whole = port, True
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Every connection breaks, and new ones do too."""
        self._is_whole = False
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def mend(self) -> None:
        self._is_whole = True

    def close(self) -> None:
        self.cut()
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                if not self._is_whole:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                self._open += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while content := one.recv(65536):
                other.sendall(content)
        for end in (one, other):
            with suppress(OSError):
                end.close()


@contextmanager
def network(port: int) -> Iterator[Network]:
    cable = Network(port)
    try:
        yield cable
    finally:
        cable.close()
