"""One federation of a cell: a site file and a manifest for each hospital, then the same two apps as in the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from permmoe.checkpoint import load_checkpoint
from permmoe.data.manifest import write_manifest
from permmoe.errors import PermmoeError
from permmoe.evaluation import ErrorSums
from permmoe.federated.plan import RoundPlan
from permmoe_client.app import app as client_app
from permmoe_server.app import app as server_app
from permmoe_server.rounds import NoQuorum
from permmoe_simulation.engine import run_federation
from permmoe_simulation.partition import Sites
from permmoe_simulation.study import Cell


@dataclass(frozen=True)
class Federation:
    """What a federation ended with."""

    weights: Mapping[str, Tensor]
    evaluations: Mapping[int, Mapping[str, ErrorSums]]
    """By round: the sites' validation sums, as far as they may leave a site."""
    rounds: list[dict[str, Any]]
    """A row for each round and site, of the columns of `rounds.csv`."""


def train_federation(cell: Cell, sites: Sites, cache: Path, folder: Path) -> Federation:
    """Train the cell's model over its sites; `folder` may hold an interrupted run, which goes on.

    Raises PermmoeError for a round that changed nothing.
    """
    # On one machine no site is ever merely late: a round that fails once would fail again.
    federation = cell.federation.model_copy(update={"max_failed_rounds": 1})
    plan = RoundPlan(model=cell.model, train=cell.train, federation=federation)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(plan.canonical_json())
    nodes = [
        {"site-config": str(write_site(name, cell, sites, cache, folder / "sites" / name, plan).absolute())}
        for name in sites
    ]
    out = folder / "server"
    run_config = {"plan": str((folder / "plan.json").absolute()), "out": str(out.absolute())}
    # The record says more of why than the exception does.
    with suppress(NoQuorum):
        run_federation(server_app, client_app, nodes, run_config, engine=cell.engine)
    records = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    for record in records:
        if not record["is_aggregated"]:
            rules = sorted({site["rejected"] for site in record["sites"] if site["rejected"]})
            raise PermmoeError(f"round {record['round']} had too few usable replies; rejected for: {', '.join(rules)}")
    weights, _ = load_checkpoint(out / "model")
    return Federation(weights, dict(_evaluations(records)), [row for record in records for row in _site_rows(record)])


def write_site(name: str, cell: Cell, sites: Sites, cache: Path, folder: Path, plan: RoundPlan) -> Path:
    """A hospital's manifest and its site file, as its IT department would have them; returns the site file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(sites[name], folder / "manifest.csv", cell.model.modalities)
    site = {
        "name": name,
        "manifest": "manifest.csv",
        "cache": str(cache.absolute()),
        "threads": cell.train.threads,
        "device": "cpu",
        "approved_studies": [plan.digest()],
        "release": {"min_cell_count": cell.federation.min_cell_count},
    }
    (folder / "site.yaml").write_text(yaml.safe_dump(site, sort_keys=False))
    return folder / "site.yaml"


def _evaluations(records: list[dict[str, Any]]) -> list[tuple[int, dict[str, ErrorSums]]]:
    return [
        (record["round"], {name: ErrorSums(**sums) for name, sums in record["validation"]["sums"].items()})
        for record in records
        if record["validation"]
    ]


def _site_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "round": record["round"],
            "site": site["site"],
            "bytes_down": site["bytes_down"],
            "bytes_up": site["bytes_up"],
            "train_seconds": round(site["train_seconds"], 6),
            "overhead_seconds": round(site["overhead_seconds"], 6),
            "modules": len(site["modules"]),
        }
        for site in record["sites"]
    ]
