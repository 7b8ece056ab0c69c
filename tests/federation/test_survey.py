"""A survey as real processes over real TLS: asked, approved late, answered, shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from permmoe_client.cli import app as client_app
from permmoe_server.cli import app as server_app
from permmoe_simulation.engines.local_deployment import ended
from tests.support.federation_processes import Started, deploy_tiny, start_client
from tests.support.patience import PATIENCE_SECONDS
from tests.support.survey_files import tiny_survey
from tests.support.tiny_federation import SITES

# One after the other: each starts eight processes.
pytestmark = pytest.mark.xdist_group("deployment")


def test_a_coordinator_asks_hospitals_for_counts_and_gets_a_page(tmp_path: Path) -> None:
    plan = tiny_survey(min_sites=3)
    deployment = deploy_tiny(tmp_path / "there", plan, {"south": {"approved_studies": []}})
    file, page = str(tmp_path / "there" / "study.yaml"), tmp_path / "survey.html"
    arguments = ("survey", file, "--config", str(deployment.folder.settings), "--out", str(page))
    processes: list[Started] = []
    with ended(processes):
        processes.append(server := Started("permmoe-server", deployment.logs / "server.log", *arguments))
        processes += [start_client(deployment, name) for name in SITES]
        refusal = "not approved yet: south"
        status = deployment.wait_for(lambda s: refusal in s.detail, "the refusal", PATIENCE_SECONDS)
        assert status.phase == "waiting"
        site = str(deployment.sites["south"])
        approved = CliRunner().invoke(client_app, ["approve", "--yes", "--site", site])
        assert approved.exit_code == 0 and "Numbers under 5 are withheld here" in approved.output, approved.output
        assert server.wait(PATIENCE_SECONDS) == 0
    text = page.read_text()
    assert "With clinical: 69 patients or more at 3 hospitals" in text and "SYNTHETIC" in text
    listed = CliRunner().invoke(server_app, ["study", "list", str(deployment.folder.path)]).output
    assert "survey" in listed and "finished" in listed
    for name in SITES:
        shown = CliRunner().invoke(client_app, ["ledger", "show", "--site", str(deployment.sites[name])]).output
        assert "survey" in shown and "account" in shown
        verified = CliRunner().invoke(client_app, ["ledger", "verify", "--site", str(deployment.sites[name])])
        assert verified.exit_code == 0 and "23 patients under pseudonyms" in verified.output
