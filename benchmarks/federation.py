"""What federating costs: time a client and round beside training, on both engines, and our averaging against Flower's.

    python benchmarks/federation.py

Prints JSON. Data are synthetic. Trust the ratios, not the milliseconds: they depend on the machine.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import yaml
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from permmoe.config import ModelConfig, TrainConfig
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import Instruction, PackedModel, TrainReply, write_train_reply
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.modality import Modality
from permmoe.runtime.memory_pages import keep_freed_pages
from permmoe.runtime.provenance import machine, versions
from permmoe.training.trainer import make_model
from permmoe_client.app import app as client_app
from permmoe_server.app import app as server_app
from permmoe_server.protocol.acceptance import accept_training
from permmoe_server.protocol.aggregation import RunningSum, fold, mean_changes
from permmoe_server.protocol.optimisers import server_step
from permmoe_simulation.engines.engine import Engine, run_federation

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
LARGE = ModelConfig(width=128, tokens=4)
"""4.8 million parameters."""
REPLIES = (10, 40)


def overhead_milliseconds(engine: Engine) -> dict[str, float]:
    """Wall time a client and round that is not training; on both engines clients run one after the other.

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
        run_federation(server_app, client_app, nodes, run_config, engine=engine, workers=int(engine == "ray"))
        whole = time.perf_counter() - started
        rounds = [json.loads(line) for line in (folder / "out" / "rounds.jsonl").read_text().splitlines()]
    training = [sum(site["train_seconds"] for site in r["sites"]) for r in rounds]
    idle = [r["seconds"] - t for r, t in zip(rounds, training, strict=True)]
    return {
        "steady": 1e3 * float(np.median(idle[2:])) / CLIENTS,
        "whole": 1e3 * (whole - sum(training)) / (CLIENTS * ROUNDS),
    }


def write_site(folder: Path, name: str, plan: RoundPlan) -> Path:
    """A synthetic site with tables only, which approved the study."""
    rng = np.random.default_rng(list(name.encode()))
    columns = [column for modality in SMALL.modalities for column in modality.columns]
    with (folder / f"{name}.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["subject_id", "site", "session", "baseline_cdrsb", "delta_cdrsb", "horizon_months", "split", *columns]
        )
        for i in range(VISITS):
            rows.writerow(
                [f"{name}-{i}", name, "bl", 1.5, rng.uniform(0, 3), 24, "train", *rng.normal(size=len(columns))]
            )
    site = {"name": name, "manifest": f"{name}.csv", "cache": f"cache-{name}", "approved_studies": [plan.digest()]}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(site))
    return folder / f"{name}.yaml"


def average_ours(n_replies: int) -> dict[str, float]:
    """Check and fold replies as they arrive, divide, step; freed pages are kept, as in the server."""
    keep_freed_pages()
    layout, weights = _large()
    plan = RoundPlan(model=LARGE)
    asked = Instruction(plan, 1, PackedModel.of(weights).digest())
    generator = torch.Generator().manual_seed(0)

    def replies() -> Iterator[RecordDict]:
        for i in range(n_replies):
            changes = {m: torch.randn(layout.size(m), generator=generator) * 1e-3 for m in layout.modules}
            updates = {m: ModuleUpdate(change * 20, 20.0) for m, change in changes.items()}
            figures = TrainingFigures(visits=20.0, loss_sum=1.0, train_seconds=1.0)
            yield write_train_reply(TrainReply(f"site-{i}", 1, asked.model_digest, updates, figures))

    before, seconds, running = _peak_mb(), 0.0, RunningSum()
    for content in replies():
        started = time.perf_counter()
        reply = accept_training(content, asked, layout, ())
        running = fold(running, reply.updates, reply.figures.visits, longest=plan.federation.max_update_norm)
        seconds += time.perf_counter() - started
    started = time.perf_counter()
    for module, change in mean_changes(running, weights):
        weights[module], _ = server_step(plan.federation, weights[module], change, {})
    return {"seconds": seconds + time.perf_counter() - started, "peak_mb_above_model": _peak_mb() - before}


def average_flower(n_replies: int) -> dict[str, float]:
    """Flower's FedAvg, which is given all replies together and checks none of their values."""
    layout, weights = _large()
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    generator = torch.Generator().manual_seed(0)
    before, replies = _peak_mb(), []
    for node in range(n_replies):
        arrays = {m: Array((w + torch.randn(len(w), generator=generator) * 1e-3).numpy()) for m, w in weights.items()}
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 20})})
        asked = Message(RecordDict({}), 1001 + node, MessageType.TRAIN)
        replies.append(Message(content, reply_to=asked))
    started = time.perf_counter()
    arrays_record, _ = FedAvg().aggregate_train(1, replies)
    assert arrays_record is not None and len(arrays_record) == len(layout.modules)
    return {"seconds": time.perf_counter() - started, "peak_mb_above_model": _peak_mb() - before}


def _large() -> tuple[ModuleLayout, dict[str, torch.Tensor]]:
    torch.set_num_threads(1)
    model = make_model(LARGE, 0)
    layout = ModuleLayout.of(model)
    return layout, layout.flatten_all(model.state_dict())


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Each measurement in a process of its own, so that none inherits another's memory or caches."""
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        ours = {n: pool.submit(average_ours, n).result() for n in REPLIES}
        flower = {n: pool.submit(average_flower, n).result() for n in REPLIES}
        here = pool.submit(overhead_milliseconds, "inprocess").result()
        ray = pool.submit(overhead_milliseconds, "ray").result()
    result = {
        "averaging": {
            "parameters": sum(p.numel() for p in make_model(LARGE, 0).parameters()),
            "ours_by_replies": ours,
            "flower_fedavg_by_replies": flower,
        },
        "overhead_ms_per_client_round": {
            "clients": CLIENTS,
            "rounds": ROUNDS,
            "inprocess": here,
            "ray": ray,
            "ratio": {key: ray[key] / here[key] for key in here},
        },
        "versions": versions(),
        "machine": machine(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
