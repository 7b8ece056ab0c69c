"""Three hospitals with small images, most of whose patients have no outcome: one has all, one no tau, one no image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from permmoe.config import PretrainingConfig, TrainConfig
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe_client.app import app as client_app
from permmoe_server.app import app as server_app
from permmoe_simulation.engines.grid import run_in_process
from permmoe_simulation.engines.local_deployment import deploy
from tests.support.scanned_patients import MODEL, write_patients
from tests.support.secure_federation import SecureFederation

HOSPITALS = {"north": ("t1", "tau", "clinical"), "south": ("t1", "clinical"), "west": ("clinical",)}
LABELLED, UNLABELLED = 13, 19
HOW = PretrainingConfig(block=1, hidden=0.3, batch_size=5, learning_rate=3e-3)


def scanned_plan(*, frozen: bool = False, **federation: object) -> RoundPlan:
    """Means, two rounds of pretraining, two that learn the outcome."""
    settings = {
        "rounds": 5,
        "pretraining_rounds": 2,
        "local_epochs": 2,
        "min_cell_count": 1,
        "round_deadline_seconds": 600.0,
        "evaluate_every": 1,
        **federation,
    }
    pretraining = HOW if settings["pretraining_rounds"] else None
    train = TrainConfig(
        batch_size=8, warmup_epochs=1, keep="last", seed=17, pretraining=pretraining, frozen_encoders=frozen
    )
    return RoundPlan(model=MODEL, train=train, federation=FederationConfig.model_validate(settings))


def write_hospitals(folder: Path, plan: RoundPlan, *, unlabelled: int = UNLABELLED) -> dict[str, Path]:
    """The site file of each, which approves the study."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, settings in hospital_settings(folder, plan, unlabelled=unlabelled).items():
        files[name] = folder / f"{name}.yaml"
        files[name].write_text(yaml.safe_dump({"name": name, **settings}))
    return files


def hospital_settings(folder: Path, plan: RoundPlan, *, unlabelled: int = UNLABELLED) -> dict[str, dict[str, Any]]:
    """What stands in each one's site file, but for its name."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        name: {
            "manifest": str(write_patients(folder, name, visits=LABELLED, unlabelled=unlabelled, has=has)),
            "cache": str(folder / "cache"),
            "threads": 1,
            "device": "cpu",
            "release": {"min_cell_count": plan.federation.min_cell_count, "min_holders": 2},
            "approved_studies": [plan.digest()],
        }
        for name, has in HOSPITALS.items()
    }


def run_plainly(folder: Path, plan: RoundPlan, *, unlabelled: int = UNLABELLED) -> list[dict[str, Any]]:
    """Run the study without keys; the records of its rounds. `out` in the folder is its folder."""
    files = write_hospitals(folder, plan, unlabelled=unlabelled)
    (folder / "plan.json").write_text(plan.canonical_json())
    nodes = [{"site-config": str(path)} for path in files.values()]
    settings = {"plan": str(folder / "plan.json"), "out": str(folder / "out")}
    run_in_process(server_app, client_app, nodes, settings)
    return [json.loads(line) for line in (folder / "out" / "rounds.jsonl").read_text().splitlines()]


def provisioned(folder: Path, plan: RoundPlan) -> SecureFederation:
    """The same hospitals with keys, roster and ledgers."""
    return SecureFederation(folder, plan, deploy(folder, "Scanned", hospital_settings(folder, plan)))


def newest_weights(folder: Path) -> Mapping[str, Tensor]:
    """The weights that a plain run ended with."""
    kept, _ = load_checkpoint(folder / "out" / "last")
    return {name.removeprefix("weights:"): t for name, t in kept.items() if name.startswith("weights:")}
