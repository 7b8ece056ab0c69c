"""A finished model judged at hospitals, as real processes over real TLS."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from permmoe_client.cli import app as client_app
from permmoe_server.cli import app as server_app
from permmoe_server.studies.evaluation_file import read_evaluation_file
from permmoe_server.studies.study_folder import known_studies
from permmoe_simulation.engines.local_deployment import ended
from tests.support.federation_processes import Started, deploy_tiny, start_client, start_server
from tests.support.judged_models import judged_ensemble, write_network
from tests.support.patience import PATIENCE_SECONDS
from tests.support.tiny_federation import SITES, tiny_plan

# It starts eight processes.
pytestmark = pytest.mark.xdist_group("deployment")


def test_an_ensemble_from_elsewhere_is_judged_by_those_who_approved_that(tmp_path: Path) -> None:
    training = tiny_plan()
    # All hospitals approved a training; two of them will approve the evaluation.
    deployment = deploy_tiny(tmp_path / "there", training)
    study = tmp_path / "judge.yaml"
    federation = {"min_sites": 2, "min_cell_count": 1}
    study.write_text(yaml.safe_dump({"name": "judging", "evaluation": {"visits": "all"}, "federation": federation}))
    model = write_network(tmp_path / "elsewhere", judged_ensemble())
    processes: list[Started] = []
    with ended(processes):
        processes.append(start_server(deployment, "--study", str(study), "--evaluate", str(model), "--stay"))
        processes += [start_client(deployment, name) for name in SITES]
        waiting = "not approved yet: north, south, west"
        deployment.wait_for(lambda s: waiting in s.detail, "the sites' refusals", PATIENCE_SECONDS)
        for site in ("north", "west"):
            approved = CliRunner().invoke(client_app, ["approve", "--yes", "--site", str(deployment.sites[site])])
            assert approved.exit_code == 0 and "it trains nothing" in approved.output, approved.output
            assert "an ensemble of 3 models" in approved.output
        status = deployment.wait_for(lambda s: s.phase in ("finished", "failed"), "the end", PATIENCE_SECONDS)
    assert status.phase == "finished" and "permmoe-server models judged" in status.detail
    [known] = known_studies(deployment.folder)
    numbers = read_evaluation_file(known.folder)
    assert numbers.sites == ("north", "west") and numbers.combinations["clinical"].n == 46
    assert numbers.left_out == ("south: The hospital has not approved this study yet; ask it to.",)
    shown = CliRunner().invoke(server_app, ["models", "judged", str(deployment.folder.path)])
    assert "elsewhere (the mean of 3 models), judged on all visits of 2 hospitals" in shown.output
