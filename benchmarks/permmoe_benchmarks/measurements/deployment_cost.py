"""What a federation costs beside training: `python benchmarks/deployment.py`, on an otherwise idle machine.

A coordinator and the demo's hospitals run as real processes over TLS on this machine, on the embedded synthetic cohort:
time from nothing to the first finished round, overhead of a round, the status page, an idle client. Then the server's
memory with 3 and with 100 sites that send updates of full size is measured, in one process each. Prints JSON.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import httpx
import yaml

from permmoe.config import read_config
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.provenance import machine, versions
from permmoe_benchmarks.library.own_process import Measurement, measure
from permmoe_benchmarks.library.processes import processor_seconds
from permmoe_benchmarks.library.timing import Figures
from permmoe_benchmarks.measurements.server_memory import server_memory
from permmoe_server.settings import read_server
from permmoe_simulation.engines.local_deployment import ended
from permmoe_simulation.federation_demo import STUDY, demo_cohort, demo_hospitals

SUBJECTS = 240
QUIET_SECONDS = 35.0
"""A node asks rarely once nothing has happened for half a minute."""
IDLE_SECONDS = 30.0
PAGE_REQUESTS = 30


def deployment_figures(*, secure: bool) -> Figures:
    """Return the figures of processes that train the demo's study, with the secure sum or without."""
    demo = read_config(STUDY, RoundPlan)
    plan = demo.model_copy(update={"federation": demo.federation.model_copy(update={"secure": secure})})
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
            time.sleep(QUIET_SECONDS)
            before = [processor_seconds(client.pid) for client in clients]
            time.sleep(IDLE_SECONDS)
            idle = [(processor_seconds(c.pid) - b) / IDLE_SECONDS for c, b in zip(clients, before, strict=True)]
    # The last round is evaluated twice, the first loads the data. With the secure sum no training times are reported.
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


def _page_seconds(settings_file: Path) -> float:
    settings = read_server(settings_file)
    started = time.monotonic()
    httpx.get(f"http://{settings.admin_host}:{settings.admin_port}/", trust_env=False).raise_for_status()
    return time.monotonic() - started


def main() -> None:
    """Measure both studies and the server's memory, and print the figures."""
    figures: Figures = {name: deployment_figures(secure=name == "secure") for name in ("plain", "secure")}
    figures["server_memory_mb"] = {
        sites: measure(Measurement(server_memory, {"scale": "quick", "sites": sites}, is_fresh=True))["mb"]
        for sites in (3, 100)
    }
    print(json.dumps(figures | {"versions": versions(), "machine": machine()}, indent=1))
