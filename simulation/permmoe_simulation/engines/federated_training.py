"""Train the federation of one cell: site files and manifests for its hospitals, then the two apps of the field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from permmoe.data.manifest import write_manifest
from permmoe.data.outcome_columns import OutcomeColumns
from permmoe.errors import ConfigurationError, DeviceUnusable, PermmoeError, nearest
from permmoe.evaluation.combinations import ErrorSums
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.plan import RoundPlan
from permmoe.federated.refusals import REFUSAL_SENTENCES, Refusal
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe.runtime.devices import CPU
from permmoe_client.app import app as client_app
from permmoe_client.connection.identity import open_ledger
from permmoe_client.participation.privacy_account import account
from permmoe_client.participation.study_memory import needs_memory, recall
from permmoe_client.site import read_site
from permmoe_server.app import app as server_app
from permmoe_server.app import make_app
from permmoe_server.protocol.readiness import NoQuorum
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_simulation.engines.engine import run_federation
from permmoe_simulation.engines.grid import FIRST_NODE, Attendance
from permmoe_simulation.engines.local_deployment import deploy
from permmoe_simulation.engines.pace import PacedTime
from permmoe_simulation.studies.partition import Sites, training_sites
from permmoe_simulation.studies.slowness import drawn_pace
from permmoe_simulation.studies.study import Cell
from permmoe_simulation.study_tables import ROUND_PARTS, SITE_TIMES


@dataclass(frozen=True)
class TrainedFederation:
    """What a federation ended with."""

    weights: Mapping[str, Tensor]
    evaluations: Mapping[int, Mapping[str, ErrorSums]]
    """By round: the sites' validation sums, as far as they may leave a site."""
    rounds: list[dict[str, Any]]
    """Rows of `rounds.csv`, one for each round and site."""
    private: Mapping[str, Mapping[str, Tensor]]
    """By site: the private modules, which the site kept to itself, each as one flat tensor."""
    privacy: list[dict[str, Any]]
    """Rows of `privacy.csv`, one for each site: ε of its patients, infinite without differential privacy."""


def train_federation(cell: Cell, sites: Sites, cache: Path, folder: Path, device: str = CPU) -> TrainedFederation:
    """Train the cell's model over those of its sites that train; `folder` may hold an interrupted run, which goes on.

    `device` is where every site trains, on Ray the GPU that Ray gives each. Raises PermmoeError for a round that
    changed nothing, and DeviceUnusable where a GPU failed a site: a federation without that site would be another one.
    """
    sites = training_sites(sites)
    if cell.engine == "ray":
        device = device.partition(":")[0]
    # On one machine no site is ever merely late: a round that fails once would fail again.
    federation = cell.federation.model_copy(update={"max_failed_rounds": 1})
    plan = RoundPlan(model=cell.model, train=cell.train, federation=federation)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(plan.canonical_json())
    out = folder / "server"
    run_config = {"plan": str((folder / "plan.json").absolute()), "out": str(out.absolute())}
    if federation.secure or federation.privacy:
        # Roster, keys and ledgers as in the field: by them a site refuses, and knows what it has spent.
        files, keys = provisioned_sites(cell, sites, cache, folder / "provisioned", plan, device)
        run_config |= keys
    else:
        files = {name: write_site(name, cell, sites, cache, folder / "sites" / name, plan, device) for name in sites}
    paced = _paced(cell, tuple(files))
    if paced:
        # A site that has not answered is recorded by its name, and not as a node.
        run_config["sites"] = str(_write_directory(folder, files))
    nodes = [{"site-config": str(path.absolute())} for path in files.values()]
    # The records of the rounds say more about the reason than the exception does.
    with suppress(NoQuorum):
        run_federation(
            make_app(clock=paced.time.clock()) if paced else server_app,
            client_app,
            nodes,
            run_config,
            engine=cell.engine,
            attendance=_attendance(cell, tuple(files)),
            paced=paced,
            device=device,
        )
    records = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    for record in records:
        if any(site["rejected"] == Refusal.DEVICE_UNUSABLE for site in record["sites"]):
            raise DeviceUnusable(f"round {record['round']}: {REFUSAL_SENTENCES[Refusal.DEVICE_UNUSABLE]}")
        if not record["is_aggregated"]:
            rules = sorted({site["rejected"] for site in record["sites"] if site["rejected"]})
            raise PermmoeError(f"round {record['round']} had too few usable replies; rejected for: {', '.join(rules)}")
    weights, _ = load_checkpoint(out / "model")
    rows = [row for record in records for row in _site_rows(record, is_paced=paced is not None)]
    private = {name: recall(read_site(path), plan).private for name, path in files.items() if needs_memory(plan)}
    return TrainedFederation(
        weights,
        dict(_evaluations(records)),
        rows,
        {name: modules for name, modules in private.items() if modules},
        _privacy_rows(files, federation),
    )


def _attendance(cell: Cell, names: tuple[str, ...]) -> Attendance:
    """First and last round by node. Raises ConfigurationError for a site that the partition does not have."""
    for name in cell.partition.attendance:
        if name not in names:
            raise ConfigurationError(f"attendance names site {name}; {nearest(name, names)}")
    return {FIRST_NODE + names.index(name): rounds for name, rounds in cell.partition.attendance.items()}


def _paced(cell: Cell, names: tuple[str, ...]) -> PacedTime | None:
    slowness = cell.partition.slowness
    return PacedTime(drawn_pace(slowness, names, cell.seed)) if slowness else None


def _write_directory(folder: Path, names: Iterable[str]) -> Path:
    """The file that tells the server which node is which site."""
    path = (folder / "sites.json").absolute()
    path.write_text(json.dumps({str(FIRST_NODE + i): name for i, name in enumerate(names)}))
    return path


def write_site(
    name: str, cell: Cell, sites: Sites, cache: Path, folder: Path, plan: RoundPlan, device: str = CPU
) -> Path:
    """A hospital's manifest and its site file, as its IT department would have them; returns the site file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(sites[name], folder / "manifest.csv", cell.model.modalities, covariates=cell.model.harmonised_by)
    site = {"name": name, "manifest": "manifest.csv", **_own_settings(cell, cache, plan, device)}
    (folder / "site.yaml").write_text(yaml.safe_dump(site, sort_keys=False))
    return folder / "site.yaml"


def provisioned_sites(
    cell: Cell, sites: Sites, cache: Path, folder: Path, plan: RoundPlan, device: str = CPU
) -> tuple[dict[str, Path], dict[str, str]]:
    """A kit for each hospital; return their site files, and the keys and roster among the settings of the server."""
    # A run that was interrupted goes on with the ledgers that it has.
    is_provisioned = (folder / "federation").exists()
    own = {name: {"manifest": "manifest.csv", **_own_settings(cell, cache, plan, device)} for name in sites}
    found = None if is_provisioned else deploy(folder, "Simulation", own)
    files = dict(found.sites) if found else {name: folder / "hospitals" / name / "site.yaml" for name in sites}
    for name, path in files.items():
        manifest = path.parent / "manifest.csv"
        write_manifest(sites[name], manifest, cell.model.modalities, covariates=cell.model.harmonised_by)
    federation = FederationFolder((folder / "federation").absolute())
    return files, {
        "sites": str(_write_directory(folder, files)),
        "roster": str(federation.roster),
        "authority": str(federation.authority),
        "server-key": str(federation.server_key),
        "server-certificate": str(federation.server),
    }


def _own_settings(cell: Cell, cache: Path, plan: RoundPlan, device: str) -> dict[str, Any]:
    outcome = OutcomeColumns.of(plan.model.score).model_dump(exclude_defaults=True)
    return {
        **({"outcome": outcome} if outcome else {}),
        "cache": str(cache.absolute()),
        "threads": cell.train.threads,
        "state": "state",
        # Ray shows each client the GPU that it may use, and that one is always the first.
        "device": device.partition(":")[0] if cell.engine == "ray" else device,
        "approved_studies": [plan.digest()],
        "release": {
            "min_cell_count": cell.federation.min_cell_count,
            "min_cohort_difference": cell.federation.min_cohort_difference,
            "cluster_centres": True,
        },
        **({"insecure_noise_seed": cell.train.seed} if cell.federation.privacy else {}),
    }


def _privacy_rows(files: Mapping[str, Path], federation: FederationConfig) -> list[dict[str, Any]]:
    privacy = federation.privacy
    rows: list[dict[str, Any]] = []
    for name, path in files.items():
        spent = inf
        if privacy and (ledger := open_ledger(read_site(path))):
            spent = account(ledger, privacy.delta)
        rows.append(
            {"site": name, "secure": federation.secure, "epsilon": spent, "delta": privacy.delta if privacy else 0}
        )
    return rows


def _evaluations(records: list[dict[str, Any]]) -> list[tuple[int, dict[str, ErrorSums]]]:
    return [
        (record["round"], {name: ErrorSums(**sums) for name, sums in record["validation"]["sums"].items()})
        for record in records
        if record["validation"]
    ]


def _site_rows(record: Mapping[str, Any], *, is_paced: bool) -> list[dict[str, Any]]:
    return [
        {
            "round": record["round"],
            "site": site["site"],
            "bytes_down": site["bytes_down"],
            "bytes_up": site["bytes_up"],
            **{name: round(site[name], 6) for name in SITE_TIMES},
            "server_seconds": round(site["server_seconds"], 6),
            "modules": len(site["modules"]),
            "round_seconds": round(record["seconds"], 6),
            **{f"{part}_seconds": round(record["stage_seconds"].get(part, 0.0), 6) for part in ROUND_PARTS},
            **({"staleness": nan if site["rejected"] else site.get("staleness", 0)} if is_paced else {}),
        }
        for site in record["sites"]
    ]
