"""A patient group and then a hospital withdraw from a federation of real processes over real TLS, and prove it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from permmoe.data.manifest import manifest_subjects
from permmoe_client.cli import app as client_app
from permmoe_client.site import read_site
from permmoe_server.cli import app as server_app
from permmoe_server.studies.registry import read_registry
from permmoe_server.studies.study_folder import current_study
from permmoe_simulation.engines.local_deployment import Deployment, ended
from tests.support.federation_processes import Started, deploy_tiny, start_client, start_server
from tests.support.patience import PATIENCE_SECONDS
from tests.support.tiny_federation import SITES, tiny_plan

# It starts eight processes.
pytestmark = pytest.mark.xdist_group("deployment")


def said(app: object, *words: object) -> Result:
    result = CliRunner().invoke(app, [*map(str, words)])  # type: ignore[arg-type]
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def run_to_its_end(deployment: Deployment, plan: Path, processes: list[Started], names: list[str]) -> None:
    """Run a study that waits for approvals, which these hospitals give."""
    coordinator = start_server(deployment, "--study", str(plan), "--stay")
    processes.append(coordinator)
    deployment.wait_for(lambda s: "not approved yet" in s.detail, "the sites' refusals", PATIENCE_SECONDS)
    for name in names:
        said(client_app, "approve", "--yes", "--site", deployment.sites[name])
    status = deployment.wait_for(lambda s: s.phase in ("finished", "failed"), "the end", PATIENCE_SECONDS)
    assert status.phase == "finished", status.detail
    coordinator.send_signal(signal.SIGTERM)
    coordinator.wait(PATIENCE_SECONDS)


def test_patients_and_then_a_hospital_withdraw_and_the_models_after_never_saw_them(tmp_path: Path) -> None:
    plan = tiny_plan(rounds=2, min_sites=2)
    deployment = deploy_tiny(tmp_path, plan)
    folder = deployment.folder
    south = deployment.sites["south"]
    manifest = read_site(south).manifest
    assert manifest
    gone = sorted(manifest_subjects(manifest))[:9]
    processes: list[Started] = []
    (tmp_path / "plan.json").write_text(plan.canonical_json())
    with ended(processes):
        processes += [start_client(deployment, name) for name in SITES]
        coordinator = start_server(deployment, "--study", str(tmp_path / "plan.json"), "--stay")
        processes.append(coordinator)
        status = deployment.wait_for(lambda s: s.phase in ("finished", "failed"), "the end", PATIENCE_SECONDS)
        assert status.phase == "finished", status.detail
        coordinator.send_signal(signal.SIGTERM)
        coordinator.wait(PATIENCE_SECONDS)

        # The clients go on running; they learn of it by themselves.
        digest = said(client_app, "withdraw", *gone, "--yes", "--site", south).output.split()
        digest = next(word for word in digest if len(word) == 64)
        said(server_app, "study", "forget", folder.path, "south", "--patients", digest)
        first = current_study(folder)
        assert first and read_registry(folder).withdrawn.keys() == {"v0001"}
        run_to_its_end(deployment, first.plan_file, processes, [*SITES])
        said(server_app, "study", "certify", folder.path)
        certificate = first.folder / "certificate.json"
        assert "true, as far as" in said(client_app, "ledger", "countersign", certificate, "--site", south).output

        left = said(client_app, "withdraw", "--whole-hospital", "--yes", "--site", south).output.split()
        left = next(word for word in left if len(word) == 64)
        said(server_app, "study", "forget", folder.path, "south", "--withdrawal", left)
        second = current_study(folder)
        assert second and read_registry(folder).withdrawn.keys() == {"v0001", "v0002"}
        run_to_its_end(deployment, second.plan_file, processes, ["north", "west"])
        said(server_app, "study", "certify", folder.path)
        certificate = second.folder / "certificate.json"
        assert "true, as far as" in said(client_app, "ledger", "countersign", certificate, "--site", south).output
    verified = said(client_app, "ledger", "verify", "--site", south).output
    assert verified.count("borne out by this ledger") == 2 and "the hospital withdrew" in verified
    records = (second.folder / "rounds.jsonl").read_text()
    assert '"site":"north"' in records and '"site":"south"' not in records
    for text in (*folder.path.rglob("*.json*"), *(tmp_path / "logs").glob("*.log"), *folder.logs.glob("*.log")):
        assert not any(f"{name}," in text.read_text() or f'"{name}"' in text.read_text() for name in gone)
