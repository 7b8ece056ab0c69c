"""`permmoe-server study`: listing, stopping, and more rounds for a study that sites go on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from permmoe.errors import ConfigurationError
from permmoe.federated.plan import RoundPlan
from permmoe_client.app import SITES
from permmoe_server.cli import app
from permmoe_server.provisioning.folder_locks import running
from permmoe_server.studies.extension import extend
from permmoe_server.studies.study_folder import current_study, keep_study, study_of
from tests.support.secure_federation import SecureFederation, found
from tests.support.tiny_federation import approve, tiny_plan

NAMES = ("north", "south", "west", "east", "mid")


class Longer(SecureFederation):
    """A federation whose study lies where a coordinator keeps it."""

    @property
    def out(self) -> Path:
        return study_of(self.deployment.folder, self.plan).folder


def run(plan: RoundPlan, federation: SecureFederation) -> list[dict]:
    longer = Longer(federation.folder, plan, federation.deployment)
    keep_study(federation.deployment.folder, study_of(federation.deployment.folder, plan))
    return longer.run()


@pytest.mark.parametrize("secure", [False, True])
def test_an_extended_study_goes_on_with_sites_that_approved_it_and_ends_as_one_that_was_long_from_the_start(
    secure: bool, tmp_path: Path
) -> None:
    settings = {"secure": secure, "min_sites": 3, "secure_threshold": 0.5, "max_failed_rounds": 1}
    settings |= {"server_optimiser": "fedadam", "server_learning_rate": 0.1}
    short, long = tiny_plan(rounds=2, **settings), tiny_plan(rounds=3, **settings)
    federation = found(tmp_path / "short", short, NAMES)
    folder = federation.deployment.folder
    assert len(run(short, federation)) == 2
    new = extend(folder, study_of(folder, short), 1)
    assert new.plan.digest() == long.digest() and current_study(folder) == new
    for path in federation.deployment.sites.values():
        approve(path, new.plan)
    SITES.forget()
    records = run(new.plan, federation)
    assert [(r["round"], r["is_aggregated"]) for r in records] == [(1, True), (2, True), (3, True)]
    assert not any(site["rejected"] for site in records[-1]["sites"]) and records[-1]["test"]["sums"]
    whole = found(tmp_path / "long", long, NAMES)
    SITES.forget()
    run(long, whole)
    here, there = (Longer(f.folder, long, f.deployment).weights() for f in (federation, whole))
    assert all(torch.equal(here[name], there[name]) for name in there)


def test_an_extension_is_refused_by_sites_that_have_not_approved_it(tmp_path: Path) -> None:
    plan = tiny_plan(rounds=1, max_failed_rounds=1)
    federation = found(tmp_path, plan, NAMES[:1])
    run(plan, federation)
    new = extend(federation.deployment.folder, study_of(federation.deployment.folder, plan), 1)
    with pytest.raises(Exception, match="usable replies"):
        run(new.plan, federation)
    line = json.loads(new.rounds.read_text().splitlines()[-1])
    assert line["sites"][0]["rejected"] == "StudyNotApproved"


def test_a_study_is_extended_only_while_no_coordinator_runs_and_once(tmp_path: Path) -> None:
    plan = tiny_plan(rounds=1)
    federation = found(tmp_path, plan, NAMES[:1])
    folder = federation.deployment.folder
    with pytest.raises(ConfigurationError, match="no finished round"):
        extend(folder, study_of(folder, plan), 1)
    run(plan, federation)
    with running(folder), pytest.raises(ConfigurationError, match="already"):
        extend(folder, study_of(folder, plan), 1)
    extend(folder, study_of(folder, plan), 1)
    with pytest.raises(ConfigurationError, match="there already"):
        extend(folder, study_of(folder, plan), 1)


def test_the_list_says_how_each_study_stands_and_stop_and_resume_are_one_file(tmp_path: Path) -> None:
    plan = tiny_plan(rounds=2)
    federation = found(tmp_path, plan, NAMES[:1])
    folder = federation.deployment.folder

    def says(*words: str) -> str:
        return CliRunner().invoke(app, ["study", *words]).output

    keep_study(folder, study_of(folder, plan))
    assert "not finished" in says("list", str(folder.path)) and plan.digest()[:16] in says("list", str(folder.path))
    assert "until permmoe-server study resume" in " ".join(says("stop", str(folder.path)).split())
    assert "stopped" in says("list", str(folder.path))
    assert "goes on" in says("resume", str(folder.path)) and "stopped" not in says("list", str(folder.path))
    run(plan, federation)
    assert "finished" in says("list", str(folder.path)) and "2 of 2" in says("list", str(folder.path))
