"""A coordinator and three regions as real processes over real TLS: one study, whichever superlink a hospital is at."""

from __future__ import annotations

import hashlib
import subprocess
from collections import Counter
from pathlib import Path
from signal import SIGTERM

import pytest
import torch

from permmoe_server.protocol.quarantine import MOST_MALFORMED
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.regions import remove_region
from permmoe_simulation.engines.local_deployment import ended, found_region, wait_for
from tests.federation.test_deployment import done, is_over, records, took_part
from tests.support.federation_processes import (
    Started,
    deploy_tiny,
    final_weights,
    find,
    join_tiny,
    kill,
    replayed,
    start_client,
    start_lying_region,
    start_region,
    start_server,
)
from tests.support.lying_region import INVENTED
from tests.support.patience import PATIENCE_SECONDS
from tests.support.tiny_federation import SITES, tiny_plan

pytestmark = pytest.mark.xdist_group("deployment")
REGIONS = {"alps": ("north",), "coast": ("south",), "delta": ("west",)}


def test_three_regions_give_the_weights_of_one_process_bit_by_bit_through_the_death_of_each_and_of_the_coordinator(
    tmp_path: Path,
) -> None:
    # More rounds than the others have while a region is away: it is back after some seconds.
    plan = tiny_plan(rounds=120, min_sites=2, round_deadline_seconds=30.0, evaluate_every=0)
    deployment = deploy_tiny(tmp_path / "there", plan, regions=REGIONS)
    study = ["--study", str(tmp_path / "there" / "study.yaml"), "--stay"]
    processes: list[Started] = []
    with ended(processes):
        regions = {name: start_region(deployment, name) for name in REGIONS}
        processes += regions.values()
        server = start_server(deployment, *study)
        processes.append(server)
        processes += [start_client(deployment, site) for site in SITES]
        deployment.wait_for(lambda s: done(2)(s) and took_part(s) == set(SITES), "round 2 with all", PATIENCE_SECONDS)
        # The superlink of a region is started again by the region, and knows its run.
        kill(wait_for(lambda: find(regions["alps"].pid, "superlink"), "a superlink", PATIENCE_SECONDS))
        deployment.wait_for(done(4), "round 4", PATIENCE_SECONDS)
        # A whole region dies, with all it knew: its hospital is missing, and then takes part again.
        regions["delta"].kill()
        regions["delta"].wait()
        without = deployment.wait_for(lambda s: "west" not in took_part(s) or is_over(s), "a round without", 120.0)
        assert not is_over(without) and took_part(without) == {"north", "south"}
        processes.append(start_region(deployment, "delta"))
        status = deployment.wait_for(lambda s: "west" in took_part(s) or is_over(s), "west again", PATIENCE_SECONDS)
        assert not is_over(status), "the study was over before the region came back"
        server.kill()
        server.wait()
        processes.append(start_server(deployment, *study))
        status = deployment.wait_for(is_over, "the end", PATIENCE_SECONDS)
    assert (status.phase, status.rounds_done) == ("finished", plan.federation.rounds), status.detail
    kept = records(deployment)
    assert [record["round"] for record in kept if record["is_aggregated"]] == list(range(1, plan.federation.rounds + 1))
    assert {site.name: site.version is not None for site in status.sites} == dict.fromkeys(SITES, True)
    here, there = replayed(tmp_path / "here", plan, kept), final_weights(deployment)
    assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


def test_a_region_that_is_added_while_a_study_runs_trains_in_it_and_one_that_is_removed_is_missed_by_nobody(
    tmp_path: Path,
) -> None:
    plan = tiny_plan(rounds=120, min_sites=2, round_deadline_seconds=30.0, evaluate_every=0)
    deployment = deploy_tiny(tmp_path / "there", plan, names=("north", "west"))
    processes: list[Started] = []
    with ended(processes):
        server = start_server(deployment, "--study", str(tmp_path / "there" / "study.yaml"), "--stay")
        processes += [server, start_client(deployment, "north"), start_client(deployment, "west")]
        deployment.wait_for(done(2), "round 2", PATIENCE_SECONDS)
        found_region(deployment.folder, "coast")
        deployment = join_tiny(deployment, plan, "south", "coast")
        status = deployment.wait_for(lambda s: s.regions_away == ("coast",), "the region is named", PATIENCE_SECONDS)
        status = deployment.wait_for(done(status.rounds_done + 2), "a round without it", PATIENCE_SECONDS)
        assert took_part(status) == {"north", "west"}
        region = start_region(deployment, "coast")
        processes += [region, start_client(deployment, "south")]
        status = deployment.wait_for(lambda s: "south" in took_part(s) or is_over(s), "south", PATIENCE_SECONDS)
        assert took_part(status) == set(SITES) and status.regions_away == ()
        process = find(server.pid, "server app")
        region.send_signal(SIGTERM)
        region.wait(PATIENCE_SECONDS)
        administration.remove_site(deployment.folder, "south")
        remove_region(deployment.folder, "coast")
        status = deployment.wait_for(lambda s: s.regions == (), "the region is named no more", PATIENCE_SECONDS)
        assert not is_over(status) and process and find(server.pid, "server app") == process
        status = deployment.wait_for(is_over, "the end", PATIENCE_SECONDS)
    assert (status.phase, status.rounds_done) == ("finished", plan.federation.rounds), status.detail
    kept = records(deployment)
    assert [record["round"] for record in kept if record["is_aggregated"]] == list(range(1, plan.federation.rounds + 1))
    assert {s["site"] for s in kept[-1]["sites"]} == {"north", "west"}
    here, there = replayed(tmp_path / "here", plan, kept), final_weights(deployment)
    assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


def test_attack_a_region_that_is_added_and_lies_and_one_that_dies_at_once_change_nothing_for_the_others(
    tmp_path: Path,
) -> None:
    plan = tiny_plan(rounds=60, min_sites=2, round_deadline_seconds=30.0, evaluate_every=0)
    deployment = deploy_tiny(tmp_path / "there", plan, names=("north", "west"))
    processes: list[Started | subprocess.Popen[bytes]] = []
    with ended(processes):
        processes.append(start_server(deployment, "--study", str(tmp_path / "there" / "study.yaml"), "--stay"))
        processes += [start_client(deployment, site) for site in ("north", "west")]
        deployment.wait_for(done(2), "round 2", PATIENCE_SECONDS)
        for name in ("delta", "coast"):
            found_region(deployment.folder, name)
        region = start_region(deployment, "delta")
        region.kill()
        region.wait()
        deployment = join_tiny(deployment, plan, "south", "coast")
        processes.append(start_lying_region(deployment, "coast", "south", *["nonsense"] * 200))
        processes.append(start_client(deployment, "south"))
        deployment.wait_for(
            lambda s: "south" in {x.name for x in s.sites if x.is_online} or is_over(s), "south", PATIENCE_SECONDS
        )
        status = deployment.wait_for(is_over, "the end", PATIENCE_SECONDS)
    assert (status.phase, status.rounds_done) == ("finished", plan.federation.rounds), status.detail
    assert status.regions_away == ("delta",)
    kept = records(deployment)
    assert all(record["is_aggregated"] for record in kept)
    assert all({s["site"] for s in record["sites"] if not s["rejected"]} == {"north", "west"} for record in kept)
    assert {s["rejected"] for record in kept for s in record["sites"] if s["site"] == "south"} <= {"unsigned"}
    here, there = replayed(tmp_path / "here", plan, kept), final_weights(deployment)
    assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


LIES = ["unsigned", "unsigned", "stranger", *["nonsense"] * MOST_MALFORMED, "unsigned", "honest", "honest", "replayed"]


def test_attack_a_region_that_answers_in_its_hospitals_place_counts_for_nothing_and_the_hospital_goes_on_after_it(
    tmp_path: Path,
) -> None:
    plan = tiny_plan(rounds=10, min_sites=2, round_deadline_seconds=60.0, evaluate_every=1)
    deployment = deploy_tiny(tmp_path / "there", plan, regions={"coast": ("south",)})
    processes: list[Started | subprocess.Popen[bytes]] = []
    with ended(processes):
        processes.append(start_server(deployment, "--study", str(tmp_path / "there" / "study.yaml"), "--stay"))
        processes.append(start_lying_region(deployment, "coast", "south", *LIES))
        processes.append(start_client(deployment, "south"))
        online = "south online"
        deployment.wait_for(lambda s: "south" in {x.name for x in s.sites if x.is_online}, online, PATIENCE_SECONDS)
        processes += [start_client(deployment, site) for site in ("north", "west")]
        status = deployment.wait_for(is_over, "the end", PATIENCE_SECONDS)
    assert (status.phase, status.rounds_done) == ("finished", plan.federation.rounds), status.detail
    kept = records(deployment)
    [south] = {s["node"] for record in kept for s in record["sites"] if s["site"] == "south"}
    refused = Counter(
        [s["rejected"] for record in kept for s in record["sites"] if s["node"] == south]
        + [record[p]["rejected"].get(str(south)) for record in kept for p in ("validation", "test") if record[p]]
    )
    # One lie may have been told of the approval, which is in no record.
    told = Counter("unsigned" if lie in ("unsigned", "nonsense") else lie for lie in LIES)
    assert refused["unsigned"] in (told["unsigned"], told["unsigned"] - 1)
    assert (refused["wrong_signature"], refused["replayed"]) == (told["stranger"], told["replayed"])
    assert refused.keys() == {None, "unsigned", "wrong_signature", "replayed"}, "and no quarantine"
    assert all(s["rejected"] is None for s in kept[-1]["sites"])
    # The coordinator signed for nothing that the hospital did not send.
    ledger = (deployment.sites["south"].parent / "ledger" / "ledger.jsonl").read_bytes().splitlines()
    own = {hashlib.sha256(line).hexdigest() for line in ledger}
    assert {s["ledger"] for record in kept for s in record["sites"] if s["node"] == south and not s["rejected"]} <= own
    [receipts] = deployment.folder.studies.glob("*/receipts.jsonl")
    assert INVENTED.digest not in receipts.read_text() and "south" in receipts.read_text()
    here, there = replayed(tmp_path / "here", plan, kept), final_weights(deployment)
    assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)
