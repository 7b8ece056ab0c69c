"""A coordinator and three regions as real processes over real TLS: one study, whichever superlink a hospital is at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from permmoe_simulation.engines.local_deployment import ended, wait_for
from tests.federation.test_deployment import done, is_over, records, took_part
from tests.support.federation_processes import (
    Started,
    deploy_tiny,
    final_weights,
    find,
    kill,
    replayed,
    start_client,
    start_region,
    start_server,
)
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
