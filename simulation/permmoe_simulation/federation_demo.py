"""`make federation-demo`: a coordinator and four hospitals on this machine, over TLS, with the secure sum.

The hospitals hold parts of the embedded synthetic cohort and collect different modalities. One is killed at the worst
moment, after its masked input was sent and before anything was unmasked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from permmoe.config import SplitConfig, read_config
from permmoe.data.adni import adni_visits
from permmoe.data.cohort import CohortConfig, write_cohort
from permmoe.data.manifest import write_manifest
from permmoe.data.splits import assign_splits
from permmoe.data.target_rule import TargetRule
from permmoe.data.visits import VisitTable
from permmoe.errors import ConfigurationError
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.command_line import run
from permmoe.runtime.devices import AUTO, CPU, training_device
from permmoe_server.settings import read_server
from permmoe_server.status.coordinator_status import CoordinatorStatus
from permmoe_server.status.findings import last_validation, mean_rmse
from permmoe_simulation.engines.local_deployment import Deployment, deploy, ended, wait_for
from permmoe_simulation.studies.partition import PartitionConfig, PartitionSite, partition

STUDY = Path(__file__).parents[2] / "configs" / "studies" / "federation-demo.yaml"
HOSPITALS = (
    PartitionSite(name="north", share=2, modalities=("t1", "flair", "amyloid", "tau")),
    PartitionSite(name="south", share=1, modalities=("t1", "flair")),
    PartitionSite(name="west", share=1, modalities=("t1", "amyloid", "tau")),
    PartitionSite(name="east", share=1, modalities=("t1", "flair", "amyloid", "tau")),
)
KILLED, KILLED_IN_ROUND = "west", 4
PATIENCE_SECONDS = 600.0

console = Console(highlight=False, soft_wrap=True)


def federation_demo(
    out: Annotated[Path, typer.Option(help="Folder of everything; it is made anew.")] = Path("runs/federation-demo"),
    subjects: Annotated[int, typer.Option(min=60, help="Synthetic subjects, all hospitals.")] = 400,
    device: Annotated[str, typer.Option(help="Where hospitals train: cpu, auto, cuda or cuda:N.")] = CPU,
) -> None:
    """Run the demo and say where its report is."""
    if device != AUTO:
        training_device(device)
    if out.exists() and any(out.iterdir()) and not (out / "federation").exists():
        raise ConfigurationError(f"{out} is not empty and holds no earlier demo; name another --out")
    shutil.rmtree(out, ignore_errors=True)
    plan = read_config(STUDY, RoundPlan)
    console.print(f"writing a synthetic cohort of {subjects} subjects to {out / 'cohort'}")
    visits = demo_cohort(out / "cohort", subjects, plan)
    started = time.monotonic()
    deployment = demo_hospitals(out, visits, plan, device)
    _say(started, f"federation founded; kits unpacked at {', '.join(deployment.sites)}")
    processes: list[subprocess.Popen[bytes]] = []
    with ended(processes):
        processes.append(deployment.start_server("--study", str(STUDY), "--stay"))
        clients = {site: deployment.start_client(site) for site in deployment.sites}
        processes += clients.values()
        deployment.wait_for(lambda s: s.sites_online == len(clients), "all hospitals online", 120.0)
        _say(started, f"{len(clients)} hospitals are connected over mutual TLS")
        _after_round(deployment, 1)
        _say(started, "the first round is finished")
        _after_masked_input(deployment, KILLED_IN_ROUND)
        clients[KILLED].kill()
        _say(started, f"{KILLED} has sent its masked input to round {KILLED_IN_ROUND} and is killed (kill -9)")
        _say(started, _recovered(_after_round(deployment, KILLED_IN_ROUND)))
        _after_round(deployment, KILLED_IN_ROUND + 2)
        processes.append(deployment.start_client(KILLED))
        _say(started, f"the others went on without {KILLED}; it is started again")
        status = deployment.wait_for(lambda s: s.phase in ("finished", "failed"), "the end", PATIENCE_SECONDS)
        report = _save_page(deployment, out / "report.html")
    _say(started, f"{status.phase} after {status.rounds_done} of {status.rounds_total} rounds")
    console.print(_finding(status))
    console.print(f"synthetic data; model: {deployment.folder.studies}, report: {report}")
    if status.phase != "finished":
        raise typer.Exit(1)


def demo_cohort(folder: Path, subjects: int, plan: RoundPlan) -> VisitTable:
    """A synthetic cohort, written as files and read back."""
    cohort = CohortConfig(subjects=subjects, grid=plan.model.grid, seed=1)
    write_cohort(folder, cohort, workers=os.cpu_count() or 1)
    visits, _ = adni_visits(folder / "clinical", folder, TargetRule(), plan.model.modalities)
    return visits.where(lambda visit: visit.delta_cdrsb is not None)


def demo_hospitals(out: Path, visits: VisitTable, plan: RoundPlan, device: str = CPU) -> Deployment:
    """A federation founded, each hospital with its part of the visits and its approval of the study."""
    dealt = assign_splits(visits, SplitConfig())
    sites, _ = partition(dealt, plan.model.names, PartitionConfig(kind="table", table=HOSPITALS), seed=0)
    # Of four hospitals one is killed, and the others go on: their sums differ by one site, which both sides must allow.
    release = {"min_cohort_difference": plan.federation.min_cohort_difference}
    own: dict[str, dict[str, Any]] = {
        name: {"threads": 1, "device": device, "approved_studies": [plan.digest()], "release": release}
        for name in sites
    }
    deployment = deploy(out, "Demo federation", own)
    for name, table in sites.items():
        data = deployment.sites[name].parent / "data"
        data.mkdir()
        write_manifest(table, data / "manifest.csv", plan.model.modalities)
    return deployment


def _after_round(deployment: Deployment, number: int) -> CoordinatorStatus:
    return deployment.wait_for(
        lambda s: s.rounds_done >= number or s.phase == "failed", f"the end of round {number}", PATIENCE_SECONDS
    )


def _after_masked_input(deployment: Deployment, number: int) -> None:
    """Return as soon as the site that is to be killed has given its masked input and nobody has unmasked anything."""
    log, line = deployment.logs / f"{KILLED}.log", f"round {number}: query.secure_mask answered"
    wait_for(
        lambda: True if log.exists() and line in log.read_text() else None,
        f"{KILLED}'s masked input to round {number}",
        PATIENCE_SECONDS,
        poll_seconds=0.005,
    )


def _recovered(status: CoordinatorStatus) -> str:
    """What became of the input of the site that was killed."""
    record = next(r for r in status.records if r.round == KILLED_IN_ROUND)
    if KILLED not in record.lost:
        return f"round {KILLED_IN_ROUND} ended, and {KILLED} was killed too late or too early to be recovered in it"
    return (
        f"round {KILLED_IN_ROUND} is finished: {KILLED} was lost at the stage {record.lost[KILLED]!r}, the others "
        "recovered its mask, and the sum holds its input"
    )


def _save_page(deployment: Deployment, path: Path) -> Path:
    """The coordinator's status page as it is now, which no longer reloads."""
    settings = read_server(deployment.folder.settings)
    page = httpx.get(f"http://{settings.admin_host}:{settings.admin_port}/", trust_env=False).text
    path.write_text(re.sub(r'<meta http-equiv="refresh"[^>]*>\n?', "", page))
    return path


def _finding(status: CoordinatorStatus) -> str:
    evaluated = last_validation(status.records)
    if evaluated is None:
        return "no round was evaluated"
    scores = ", ".join(f"{name} {score.rmse:.2f} (n = {score.n})" for name, score in evaluated.validation.items())
    return (
        f"SYNTHETIC data. Validation RMSE after round {evaluated.round}, CDR-SB points: {scores}; "
        f"over combinations {mean_rmse(evaluated.validation):.2f}"
    )


def _say(started: float, text: str) -> None:
    console.print(f"{time.monotonic() - started:6.1f} s  {text}", markup=False)


def main() -> None:
    """What `simulation/federation_demo.py` runs."""
    run(lambda: typer.run(federation_demo))
