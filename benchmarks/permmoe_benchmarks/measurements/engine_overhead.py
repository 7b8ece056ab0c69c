"""What a client's round costs beside its training, on both engines."""

from __future__ import annotations

import csv
import json
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import yaml

from permmoe.config import ModelConfig, TrainConfig
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.plan import RoundPlan
from permmoe.modality import Modality
from permmoe_benchmarks.library.curve import Curve, at_every_scale
from permmoe_benchmarks.library.timing import Figures
from permmoe_client.app import app as client_app
from permmoe_server.app import app as server_app
from permmoe_simulation.engines.engine import Engine, run_federation
from permmoe_simulation.engines.ray_cluster import ray_cluster

CLIENTS, ROUNDS, VISITS, COLUMNS = 8, 6, 24, 5
SMALL = ModelConfig(
    modalities=tuple(
        Modality(name=name, kind="tabular", columns=tuple(f"{name}_{i}" for i in range(COLUMNS)))
        for name in ("clinical", "fluid")
    ),
    tokens=2,
    width=16,
    experts=4,
    top_k=2,
    expert_hidden=16,
    head_hidden=16,
)


def overhead_milliseconds(engine: Engine) -> Figures:
    """Return the wall time of a client's round that is not training, ms; clients run one after the other.

    `steady` leaves the first two rounds out, in which clients read their data and Ray starts; `whole` is the run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        federation = FederationConfig(rounds=ROUNDS, local_epochs=1, evaluate_every=0)
        plan = RoundPlan(model=SMALL, train=TrainConfig(batch_size=VISITS), federation=federation)
        (folder / "plan.json").write_text(plan.canonical_json())
        nodes = [{"site-config": str(write_site(folder, f"site-{i}", plan))} for i in range(CLIENTS)]
        run_config = {"plan": str(folder / "plan.json"), "out": str(folder / "out")}
        started = time.perf_counter()
        with ray_cluster(1) if engine == "ray" else nullcontext():
            run_federation(server_app, client_app, nodes, run_config, engine=engine)
        whole = time.perf_counter() - started
        rounds = [json.loads(line) for line in (folder / "out" / "rounds.jsonl").read_text().splitlines()]
    training = [sum(site["train_seconds"] for site in r["sites"]) for r in rounds]
    overhead = [r["seconds"] - t for r, t in zip(rounds, training, strict=True)]
    return {
        "steady": 1e3 * float(np.median(overhead[2:])) / CLIENTS,
        "whole": 1e3 * (whole - sum(training)) / (CLIENTS * ROUNDS),
    }


def ray_overhead(clients: int) -> Figures:
    """Return what a client's round costs on Ray beside its training, on this machine, s."""
    assert clients == CLIENTS
    found = overhead_milliseconds("ray")
    return {"client_seconds": found["steady"] / 1e3, "whole_client_seconds": found["whole"] / 1e3}


def write_site(folder: Path, name: str, plan: RoundPlan) -> Path:
    """Write the files of a synthetic site that has tables only and approved the study; returns its settings file."""
    rng = np.random.default_rng(list(name.encode()))
    columns = [column for modality in SMALL.modalities for column in modality.columns]
    header = ["subject_id", "site", "session", "baseline_cdrsb", "delta_cdrsb", "horizon_months", "split", *columns]
    with (folder / f"{name}.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(header)
        for i in range(VISITS):
            rows.writerow(
                [f"{name}-{i}", name, "bl", 1.5, rng.uniform(0, 3), 24, "train", *rng.normal(size=len(columns))]
            )
    site = {"name": name, "manifest": f"{name}.csv", "cache": f"cache-{name}", "approved_studies": [plan.digest()]}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(site))
    return folder / f"{name}.yaml"


CURVES = (
    Curve(
        "ray", "ray_overhead", ray_overhead, "clients",
        {"tiny": (CLIENTS,), "quick": (CLIENTS,), "full": (CLIENTS,)}, at_every_scale(),
    ),
)  # fmt: skip
