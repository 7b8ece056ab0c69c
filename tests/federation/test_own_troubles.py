"""A hospital's own troubles, in a federation of real processes over TLS: a proxy on the way, a ledger put back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from permmoe_simulation.engines.local_deployment import ended
from tests.support.connect_proxy import connect_proxy
from tests.support.federation_processes import Started, deploy_tiny, start_client, start_server
from tests.support.patience import PATIENCE_SECONDS
from tests.support.tiny_federation import SITES, tiny_plan

HOSPITAL = "north"

pytestmark = pytest.mark.xdist_group("deployment")


def test_a_hospital_trains_through_a_proxy_and_ends_once_its_ledger_was_removed(tmp_path: Path) -> None:
    deployment = deploy_tiny(tmp_path, tiny_plan(rounds=1, min_sites=len(SITES)))
    path, log = deployment.sites[HOSPITAL], deployment.logs / f"{HOSPITAL}.log"
    clients: dict[str, Started] = {}
    processes: list[Started] = []
    with connect_proxy() as proxy, ended(processes):
        settings = yaml.safe_load(path.read_text())
        settings["coordinator"]["proxy"] = proxy.url
        path.write_text(yaml.safe_dump(settings))
        processes.append(start_server(deployment, "--study", str(tmp_path / "study.yaml"), "--stay"))
        clients = {site: start_client(deployment, site) for site in SITES}
        processes += clients.values()
        status = deployment.wait_for(lambda s: s.phase in ("finished", "failed"), "the end", PATIENCE_SECONDS)
        assert status.phase == "finished" and status.rounds_done == 1
        assert proxy.asked and all(head.startswith(b"CONNECT 127.0.0.1:") for head in proxy.asked)
        assert f"by way of the proxy 127.0.0.1:{proxy.port}" in log.read_text()
        assert "there is no ledger yet" in log.read_text()

        # The study is over, so that no instruction brings a receipt any more: the connection itself does.
        clients[HOSPITAL].kill()
        clients[HOSPITAL].wait(PATIENCE_SECONDS)
        shutil.rmtree(path.parent / settings["ledger"])
        again = start_client(deployment, HOSPITAL)
        processes.append(again)
        assert again.wait(PATIENCE_SECONDS) == 2
        assert "the ledger ends at entry 0, but the coordinator has a receipt for entry" in log.read_text()
