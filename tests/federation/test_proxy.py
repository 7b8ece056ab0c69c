"""A hospital behind a proxy takes part in a federation of real processes over TLS."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from permmoe_simulation.engines.local_deployment import ended
from tests.support.connect_proxy import connect_proxy
from tests.support.federation_processes import deploy_tiny, start_client, start_server
from tests.support.patience import PATIENCE_SECONDS
from tests.support.tiny_federation import SITES, tiny_plan

BEHIND = "north"

pytestmark = pytest.mark.xdist_group("deployment")


def test_a_hospital_behind_a_proxy_trains_as_the_others_do(tmp_path: Path) -> None:
    deployment = deploy_tiny(tmp_path, tiny_plan(rounds=1, min_sites=len(SITES)))
    processes = []
    with connect_proxy() as proxy, ended(processes):
        behind = deployment.sites[BEHIND]
        settings = yaml.safe_load(behind.read_text())
        settings["coordinator"]["proxy"] = proxy.url
        behind.write_text(yaml.safe_dump(settings))
        processes.append(start_server(deployment, "--study", str(tmp_path / "study.yaml"), "--stay"))
        processes += [start_client(deployment, site) for site in SITES]
        status = deployment.wait_for(lambda s: s.phase in ("finished", "failed"), "the end", PATIENCE_SECONDS)
    assert status.phase == "finished" and status.rounds_done == 1
    assert proxy.asked and all(head.startswith(b"CONNECT 127.0.0.1:") for head in proxy.asked)
    assert f"by way of the proxy 127.0.0.1:{proxy.port}" in (deployment.logs / f"{BEHIND}.log").read_text()
