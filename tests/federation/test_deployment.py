"""A coordinator and three hospitals as real processes over real TLS, and what happens to them."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from permmoe_client.connection.identity import open_ledger
from permmoe_client.site import read_site
from permmoe_server.settings import read_server
from permmoe_server.status.coordinator_status import CoordinatorStatus
from permmoe_simulation.engines.local_deployment import Deployment, ended, wait_for
from tests.support.federation_processes import (
    Started,
    deploy_tiny,
    final_weights,
    find,
    kill,
    let_a_minute_pass,
    network,
    replayed,
    start_client,
    start_server,
)
from tests.support.patience import PATIENCE_SECONDS
from tests.support.tiny_federation import SITES, tiny_plan

# One after the other: each starts eight processes.
pytestmark = pytest.mark.xdist_group("deployment")


def is_over(status: CoordinatorStatus) -> bool:
    return status.phase in ("finished", "failed")


def done(number: int) -> Callable[[CoordinatorStatus], bool]:
    return lambda status: status.rounds_done >= number or is_over(status)


def records(deployment: Deployment) -> list[dict[str, Any]]:
    [path] = deployment.folder.studies.glob("*/rounds.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_federation_survives_a_kill_of_each_of_its_processes_and_loses_or_doubles_no_update(tmp_path: Path) -> None:
    # More rounds than kills need: they take less than the coordinator's look at its study.
    plan = tiny_plan(rounds=24, min_sites=2, round_deadline_seconds=15.0)
    deployment = deploy_tiny(tmp_path / "there", plan)
    study = ["--study", str(tmp_path / "there" / "study.yaml"), "--stay"]
    processes: list[subprocess.Popen[bytes] | Started] = []
    with ended(processes):
        server = start_server(deployment, *study)
        processes.append(server)
        clients = {site: start_client(deployment, site) for site in SITES}
        processes += clients.values()
        for number, program in enumerate(("superlink", "gateway", "server app", "executor"), start=1):
            status = deployment.wait_for(done(number), f"round {number}", PATIENCE_SECONDS)
            # Started again, the server would bring a study to its end that a kill before had ended.
            assert not is_over(status), status.detail
            kill(wait_for(lambda p=program: find(server.pid, p), f"a running {program}", PATIENCE_SECONDS))
            if program == "server app":
                let_a_minute_pass(deployment)
        deployment.wait_for(done(5), "round 5", PATIENCE_SECONDS)
        clients["west"].kill()
        status = deployment.wait_for(done(6), "round 6", PATIENCE_SECONDS)
        assert not is_over(status), status.detail
        processes.append(deployment.start_client("west"))
        server.kill()
        server.wait()
        processes.append(deployment.start_server(*study))
        status = deployment.wait_for(is_over, "the end", PATIENCE_SECONDS)
    assert (status.phase, status.rounds_done) == ("finished", plan.federation.rounds), status.detail
    kept = records(deployment)
    assert [record["round"] for record in kept if record["is_aggregated"]] == list(range(1, plan.federation.rounds + 1))
    assert {site["site"] for record in kept for site in record["sites"]} == set(SITES)
    down = [site["bytes_down"] for record in kept for site in record["sites"] if site["site"] == "north"]
    assert min(down) < down[0] / 1.5, "a site that has judged a model is sent it again to train from"
    here, there = replayed(tmp_path / "here", plan, kept), final_weights(deployment)
    assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


def test_a_hospital_that_stands_still_is_not_waited_for_and_its_update_counts_late_and_once(tmp_path: Path) -> None:
    plan = tiny_plan(rounds=400, close_after=0.6, max_staleness=400, evaluate_every=0, round_deadline_seconds=60.0)
    deployment = deploy_tiny(tmp_path, plan)

    def of_west() -> list[tuple[int, dict[str, Any]]]:
        found = records(deployment)
        return [(record["round"], site) for record in found for site in record["sites"] if site["site"] == "west"]

    processes: list[Started] = []
    with ended(processes):
        processes.append(start_server(deployment, "--study", str(tmp_path / "study.yaml"), "--stay"))
        clients = {site: start_client(deployment, site) for site in SITES}
        processes += clients.values()
        deployment.wait_for(done(2), "round 2", PATIENCE_SECONDS)
        clients["west"].send_signal(signal.SIGSTOP)
        stopped = deployment.wait_for(
            lambda s: any(x["rejected"] == "at_work" for _, x in of_west()), "rounds without", 60.0
        )
        clients["west"].send_signal(signal.SIGCONT)
        status = deployment.wait_for(
            lambda s: is_over(s) or any(x.get("staleness", 0) for _, x in of_west()), "a late update", PATIENCE_SECONDS
        )
    assert stopped.phase == status.phase == "running", "the study was over before the hospital stood still"
    begun = [number - site.get("staleness", 0) for number, site in of_west() if not site["rejected"]]
    assert len(begun) == len(set(begun))


def test_a_coordinator_that_is_killed_asks_again_for_what_a_hospital_was_at_work_on_and_counts_it_once(
    tmp_path: Path,
) -> None:
    plan = tiny_plan(rounds=2000, close_after=0.6, max_staleness=2000, evaluate_every=0, round_deadline_seconds=60.0)
    deployment = deploy_tiny(tmp_path, plan)
    study = ["--study", str(tmp_path / "study.yaml"), "--stay"]

    def of_west() -> list[tuple[int, dict[str, Any]]]:
        found = records(deployment)
        return [(record["round"], site) for record in found for site in record["sites"] if site["site"] == "west"]

    processes: list[Started] = []
    with ended(processes):
        server = start_server(deployment, *study)
        processes.append(server)
        clients = {site: start_client(deployment, site) for site in SITES}
        processes += clients.values()
        deployment.wait_for(done(2), "round 2", PATIENCE_SECONDS)
        clients["west"].send_signal(signal.SIGSTOP)
        deployment.wait_for(lambda s: of_west()[-1][1]["rejected"] == "at_work", "a round without west", 60.0)
        server.kill()
        server.wait()
        before = of_west()
        asked = 1 + max(number for number, site in before if not site["rejected"])
        processes.append(start_server(deployment, *study))
        deployment.wait_for(done(before[-1][0] + 2), "rounds after the kill", PATIENCE_SECONDS)
        clients["west"].send_signal(signal.SIGCONT)
        status = deployment.wait_for(
            lambda s: is_over(s) or any(x.get("staleness", 0) for _, x in of_west()), "a late update", PATIENCE_SECONDS
        )
        # What west brings next is of another round.
        deployment.wait_for(lambda s: not of_west()[-1][1]["rejected"], "west in time", PATIENCE_SECONDS)
    assert status.phase == "running"
    begun = [number - site.get("staleness", 0) for number, site in of_west() if not site["rejected"]]
    assert asked in begun and len(begun) == len(set(begun))


def test_a_hospital_that_is_killed_in_its_training_goes_on_where_it_was_and_the_study_ends_with_the_same_bits(
    tmp_path: Path,
) -> None:
    plan = tiny_plan(rounds=1, local_epochs=300, min_sites=3, round_deadline_seconds=120.0)
    states = {name: {"state": str(tmp_path / f"state-{name}"), "checkpoint_seconds": 0.2} for name in SITES}
    deployment = deploy_tiny(tmp_path / "there", plan, states)
    training = tmp_path / "state-west" / "training" / "newest"
    processes: list[Started] = []
    with ended(processes):
        processes.append(start_server(deployment, "--study", str(tmp_path / "there" / "study.yaml"), "--stay"))
        clients = {site: start_client(deployment, site) for site in SITES}
        processes += clients.values()
        wait_for(lambda: '"step"' in read_or_empty(training / "card.json") or None, "a point", PATIENCE_SECONDS)
        clients["west"].kill()
        clients["west"].wait()
        processes.append(start_client(deployment, "west"))
        status = deployment.wait_for(is_over, "the end", PATIENCE_SECONDS)
    assert (status.phase, status.rounds_done) == ("finished", 1), status.detail
    kept = records(deployment)
    assert all(set(SITES) == {s["site"] for s in r["sites"] if not s["rejected"]} for r in kept if r["is_aggregated"])
    log = (deployment.logs / "west.log").read_text()
    assert log.count("the training goes on behind step") == 1 and "it is removed" not in log
    for name in SITES:
        ledger = open_ledger(read_site(deployment.sites[name]))
        assert ledger and [e.facts["round"] for e in ledger.entries() if e.kind == "training"] == [1]
    here, there = replayed(tmp_path / "here", plan, kept), final_weights(deployment)
    assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


def read_or_empty(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_site_whose_network_is_gone_for_longer_than_a_round_comes_back(tmp_path: Path) -> None:
    plan = tiny_plan(rounds=60, min_sites=2, round_deadline_seconds=8.0, evaluate_every=0)
    deployment = deploy_tiny(tmp_path / "there", plan)
    with network(read_server(deployment.folder.settings).port) as cable:
        site = yaml.safe_load(deployment.sites["west"].read_text())
        site["coordinator"]["port"] = cable.port
        deployment.sites["west"].write_text(yaml.safe_dump(site))
        processes: list[Started] = []
        with ended(processes):
            processes.append(start_server(deployment, "--study", str(tmp_path / "there" / "study.yaml"), "--stay"))
            processes += [start_client(deployment, name) for name in SITES]
            before = deployment.wait_for(lambda s: "west" in took_part(s), "west's first round", PATIENCE_SECONDS)
            cable.cut()
            deployment.wait_for(
                lambda s: s.rounds_done >= before.rounds_done + 2 and "west" not in took_part(s), "rounds without", 60.0
            )
            cable.mend()
            status = deployment.wait_for(lambda s: "west" in took_part(s) or is_over(s), "west again", PATIENCE_SECONDS)
    assert "west" in took_part(status) and status.phase == "running"
    log = (deployment.logs / "west.log").read_text()
    assert "the coordinator is away" in log or "cannot be reached" in log


def took_part(status: CoordinatorStatus) -> set[str]:
    return set(status.records[-1].trained) if status.records else set()
