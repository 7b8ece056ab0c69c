"""Rounds over a real coordinator on this machine: gateway, SuperLink with its SQLite and executor, over TLS.

Thin sites are threads of this process, with the node's own connection and its pace of asking; they share the machine's
cores with the server.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from flwr.app import Message

from permmoe.federated.approval_question import APPROVAL_MESSAGE, ApprovalAnswer, write_answer
from permmoe.federated.instructions import read_instruction
from permmoe.federated.replies import write_train_reply
from permmoe.runtime.process_memory import peak_memory_mb
from permmoe_benchmarks.library.curve import Curve
from permmoe_benchmarks.library.processes import processor_seconds, programs
from permmoe_benchmarks.library.thin_sites import NO_DEADLINE_SECONDS, ThinSites
from permmoe_benchmarks.library.timing import Figures
from permmoe_client.connection.fleet import Fleet, Refused, Unreachable, connect
from permmoe_client.connection.identity import client_context, load_key
from permmoe_client.site import read_site
from permmoe_simulation.engines.local_deployment import Deployment, deploy, ended

SETTLING_SECONDS, IDLE_SECONDS = 10.0, 20.0
"""How long the coordinator is looked at after the last round, while all sites wait for a message."""
CONNECTING_AT_ONCE = 8
"""Hundreds of handshakes at once, of one process on the gateways' own cores, take longer than a gateway waits."""
SWITCH_SECONDS, STOP_SECONDS = 0.1, 30.0
"""How often a thread that waits for Python's lock asks for it, and one that waits for a message looks whether it is to
stop: of a thousand threads that is much work, and by default each does so every 5 ms and every 0.25 s."""
AWAY_SECONDS = 1.0
"""How long a site pauses where a coordinator that it is connected to did not answer in time."""
# All sites have one address here.
LIMITS = {"connections": 4096, "connections_per_address": 4096}


@dataclass(frozen=True)
class ConnectedSites:
    """Thin sites that a coordinator serves, a thread each."""

    sites: ThinSites
    stop: threading.Event = field(default_factory=threading.Event)
    entrance: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(CONNECTING_AT_ONCE))

    @contextlib.contextmanager
    def running(self, settings: dict[str, Path]) -> Iterator[None]:
        """Run a thread for each site's settings file until the end of the block."""
        threads = [threading.Thread(target=self._serve, args=item, daemon=True) for item in settings.items()]
        switch_seconds = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            for thread in threads:
                thread.start()
            yield
        finally:
            sys.setswitchinterval(switch_seconds)
            self.stop.set()
            # Those that wait for a message end with this process.
            for thread in threads:
                thread.join(5.0 / len(threads))

    def _serve(self, name: str, settings: Path) -> None:
        coordinator = read_site(settings).coordinator
        assert coordinator
        tls, key = client_context(coordinator), load_key(coordinator.key)
        while not self.stop.is_set():
            with contextlib.suppress(Unreachable, Refused), contextlib.ExitStack() as connection:
                with self.entrance:
                    fleet = connection.enter_context(connect(coordinator.host, coordinator.port, tls, key, self.stop))
                fleet.stop_seconds = STOP_SECONDS
                while not self.stop.is_set():
                    self._next(fleet, name)
            self.stop.wait(AWAY_SECONDS)

    def _next(self, fleet: Fleet, name: str) -> None:
        """Answer the next message, if one comes. Raises Refused where the connection no longer counts."""
        try:
            if (message := fleet.receive()) is not None:
                fleet.send(self._answer(message, name), 0.0)
        except Unreachable:
            self.stop.wait(AWAY_SECONDS)

    def _answer(self, message: Message, name: str) -> Message:
        if message.metadata.message_type == APPROVAL_MESSAGE:
            return Message(write_answer(ApprovalAnswer(has_approved=True)), reply_to=message)
        instruction = read_instruction(message.content)
        reply = replace(self.sites.reply, site=name, round=instruction.round, model_digest=instruction.model_digest)
        return Message(write_train_reply(reply, instruction.up_wire), reply_to=message)


@dataclass(frozen=True)
class Servers:
    """The coordinator and its regions."""

    first: tuple[tuple[int, str], ...]
    """Process and name of each."""

    def programs(self) -> list[tuple[str, int]]:
        """What each of them started, and they themselves: name and process."""
        return [found for process, name in self.first for found in programs(process, name)]


def superlink_round(clients: int, rounds: int, regions: int = 0, held_mb: int = 512) -> Figures:
    """Return the seconds of a round, memory and processor time of the coordinator's programs, and bytes.

    The sites are spread over so many regions, whose programs count with the coordinator's; by default there is none,
    and all sites are the coordinator's own. After the last round all sites wait for messages: that takes `idle_cores`
    of a core. Each gateway holds so many MB of bodies at once.
    """
    sites = ThinSites.of(clients, secure=False, rounds=rounds)
    connected = ConnectedSites(sites)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = folder / "study.yaml"
        study.write_text(yaml.safe_dump(sites.plan.model_dump(mode="json")))
        own = {name: {"manifest": "manifest.csv"} for name in sites.names.values()}
        homes = {f"region-{i:02}": list(own)[i::regions] for i in range(regions)}
        deployment = deploy(folder, "Scaling", own, {"limits": {**LIMITS, "held_bytes": held_mb << 20}}, homes)
        started = [
            *((deployment.start_region(region), "region") for region in homes),
            (deployment.start_server("--study", str(study), "--stay"), "coordinator"),
        ]
        servers = Servers(tuple((process.pid, name) for process, name in started))
        with ended([process for process, _ in started]), connected.running(dict(deployment.sites)):
            figures = _server_figures(deployment, servers, rounds)
            records, log_bytes = _round_log(deployment)
            idle = _idle_cores(servers)
    values = [record["seconds"] for record in records[1:]]
    answered = [site for record in records for site in record["sites"] if site["rejected"] is None]
    assert len(answered) == clients * len(records), "a thin site was left out of a round"
    return {
        "round_seconds": statistics.median(values),
        "values": values,
        **figures,
        "idle_cores": sum(idle.values()),
        "idle_cores_by_program": idle,
        "log_bytes": log_bytes,
        "bytes_down": answered[0]["bytes_down"],
        "bytes_up": answered[0]["bytes_up"],
    }


def _server_figures(deployment: Deployment, servers: Servers, rounds: int) -> Figures:
    """Memory, processor time of a round and database of the coordinator's programs; returns after the last round."""
    deployment.wait_for(lambda s: s.rounds_done >= 1, "the first round", NO_DEADLINE_SECONDS)
    begun = {process: processor_seconds(process) for _, process in servers.programs()}
    deployment.wait_for(lambda s: s.rounds_done >= rounds - 1, "all rounds but the last", NO_DEADLINE_SECONDS)
    memory, busy = defaultdict[str, float](float), defaultdict[str, float](float)
    for program, process in servers.programs():
        memory[program] += peak_memory_mb(process)
        busy[program] += processor_seconds(process) - begun.get(process, 0.0)
    deployment.wait_for(lambda s: s.phase == "finished", "the end", NO_DEADLINE_SECONDS)
    database = sum(file.stat().st_size for file in deployment.folder.path.rglob("superlink.db*"))
    return {
        "server_memory_mb": sum(memory.values()),
        "memory_by_program_mb": memory,
        "processor_seconds": sum(busy.values()) / (rounds - 2),
        "processor_seconds_by_program": busy,
        "database_mb": database / 1e6,
    }


def _idle_cores(servers: Servers) -> dict[str, float]:
    """How many cores each of the coordinator's programs uses while nothing happens; the study's process has ended."""
    time.sleep(SETTLING_SECONDS)
    begun = {process: processor_seconds(process) for _, process in servers.programs()}
    time.sleep(IDLE_SECONDS)
    used = defaultdict[str, float](float)
    for program, process in servers.programs():
        used[program] += (processor_seconds(process) - begun.get(process, 0.0)) / IDLE_SECONDS
    return used


def _round_log(deployment: Deployment) -> tuple[list[dict[str, Any]], float]:
    """The records of all rounds, and the bytes of one in the log."""
    [log] = deployment.folder.studies.glob("*/rounds.jsonl")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return records, log.stat().st_size / len(records)


CURVES = (
    Curve(
        "round-superlink", "superlink_round", superlink_round, "clients",
        {"tiny": (1, 2, 3), "quick": (5, 20, 50, 100), "full": (5, 10, 20, 40, 70, 100)},
        {"tiny": {"rounds": 3}, "quick": {"rounds": 5}, "full": {"rounds": 6}},
        {"tiny": 1, "quick": 1, "full": 2},
    ),
)  # fmt: skip
