"""What a federation costs beside training: `python benchmarks/deployment.py`, on an otherwise idle machine.

A coordinator and three hospitals as real processes over TLS on this machine, on the embedded synthetic cohort: time
from nothing to the first finished round, overhead of a round, the status page, an idle client. Then the server's memory
with 3 and with 100 sites that send updates of full size, in one process each. Prints JSON.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import torch
import yaml
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from permmoe.config import read_config
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import TrainReply, read_instruction, write_train_reply
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.model import PerMMoE
from permmoe.runtime.provenance import machine, versions
from permmoe_server.protocol.rounds import FederationState, run_rounds
from permmoe_server.settings import read_server
from permmoe_simulation.engines.deployment import ended
from permmoe_simulation.engines.grid import InProcessGrid
from permmoe_simulation.federation_demo import STUDY, demo_cohort, demo_hospitals

SUBJECTS = 240
IDLE_SECONDS = 30.0
PAGE_REQUESTS = 30


def deployment_figures(*, secure: bool) -> dict[str, Any]:
    """Of real processes that train the demo's study, with the secure sum or without."""
    base = read_config(STUDY, RoundPlan)
    plan = base.model_copy(update={"federation": base.federation.model_copy(update={"secure": secure})})
    with tempfile.TemporaryDirectory() as folder:
        visits = demo_cohort(Path(folder) / "cohort", SUBJECTS, plan)
        study = Path(folder) / "study.yaml"
        study.write_text(yaml.safe_dump(plan.model_dump(mode="json")))
        started = time.monotonic()
        deployment = demo_hospitals(Path(folder), visits, plan)
        processes = [deployment.start_server("--study", str(study), "--stay")]
        with ended(processes):
            clients = [deployment.start_client(site) for site in deployment.sites]
            processes += clients
            deployment.wait_for(lambda s: s.rounds_done >= 1, "the first round", 300.0)
            first_round = time.monotonic() - started
            deployment.wait_for(lambda s: s.phase == "finished", "the end", 600.0)
            [path] = deployment.folder.studies.glob("*/rounds.jsonl")
            records = [json.loads(line) for line in path.read_text().splitlines()]
            pages = [_page_seconds(deployment.folder.settings) for _ in range(PAGE_REQUESTS)]
            # The node asks rarely once nothing has happened for half a minute.
            time.sleep(35.0)
            before = [_cpu_seconds(client.pid) for client in clients]
            time.sleep(IDLE_SECONDS)
            idle = [(_cpu_seconds(c.pid) - b) / IDLE_SECONDS for c, b in zip(clients, before, strict=True)]
    # The last round is evaluated twice, the first loads the data. With the secure sum nobody is told training times.
    overheads = [r["seconds"] - max(site["train_seconds"] for site in r["sites"]) for r in records[1:-1]]
    return {
        "data": "synthetic",
        "subjects": SUBJECTS,
        "study_sha256": plan.digest(),
        "seconds_to_first_round": round(first_round, 1),
        "round_overhead_seconds": {
            "median": round(statistics.median(overheads), 2),
            "largest": round(max(overheads), 2),
        },
        "round_overhead_includes": "training and evaluation exchange, checkpoint, polling; if secure, training too",
        "status_page_ms": {"median": round(1e3 * statistics.median(pages), 1), "largest": round(1e3 * max(pages), 1)},
        "idle_client_core_share": [round(share, 4) for share in idle],
    }


def memory_mb(sites: int) -> int:
    """Peak memory of a process that serves so many sites, which send updates of every module, MB."""
    code = f"from deployment import serve; print(serve({sites}))"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", code]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def serve(sites: int) -> int:
    """Two rounds with `sites` sites that change every module by nothing; this process's peak memory, MB."""
    base = read_config(STUDY, RoundPlan)
    plan = base.model_copy(update={"federation": FederationConfig(rounds=2, evaluate_every=0, centring_round=False)})
    layout = ModuleLayout.of(PerMMoE(plan.model))
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        asked = read_instruction(message.content)
        updates = {name: ModuleUpdate(torch.zeros(layout.size(name)), 1.0) for name in layout.modules}
        figures = TrainingFigures(visits=1.0, loss_sum=1.0)
        reply = TrainReply(f"site{context.node_id}", asked.round, asked.model_digest, updates, figures)
        return Message(write_train_reply(reply), reply_to=message)

    state = FederationState(0, layout.flatten_all(PerMMoE(plan.model).state_dict()))
    for _, record in run_rounds(InProcessGrid(app, [{}] * sites), plan, layout, state):
        assert len([site for site in record.sites if site.rejected is None]) == sites
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _page_seconds(settings_file: Path) -> float:
    settings = read_server(settings_file)
    started = time.monotonic()
    httpx.get(f"http://{settings.admin_host}:{settings.admin_port}/", trust_env=False).raise_for_status()
    return time.monotonic() - started


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    figures = {name: deployment_figures(secure=name == "secure") for name in ("plain", "secure")} | {
        "server_memory_mb": {sites: memory_mb(sites) for sites in (3, 100)}
    }
    print(json.dumps(figures | {"versions": versions(), "machine": machine()}, indent=1))
