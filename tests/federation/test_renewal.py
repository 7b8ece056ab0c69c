"""Certificates, rosters and keys are renewed while coordinator and hospitals run, over real TLS."""

from __future__ import annotations

import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from permmoe.federated.membership import MEMBER_PATH, read_papers
from permmoe.federated.roster import read_roster
from permmoe_client.connection.identity import client_context, load_key
from permmoe_client.site import read_site
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.authority import issue_site, new_node_key, read_identity
from permmoe_server.settings import read_server
from permmoe_server.status.coordinator_status import CoordinatorStatus
from permmoe_simulation.engines.local_deployment import Deployment, ended
from tests.support.federation_processes import Started, deploy_tiny, start_client, start_server
from tests.support.tiny_federation import tiny_plan

# One after the other: each starts many processes.
pytestmark = pytest.mark.xdist_group("deployment")

PATIENCE_SECONDS = 300.0


def online(site: str, is_online: bool = True) -> object:
    return lambda status: {s.name: s.is_online for s in status.sites}.get(site) is is_online


def certificate_of(deployment: Deployment, site: str) -> x509.Certificate:
    coordinator = read_site(deployment.sites[site]).coordinator
    assert coordinator
    return x509.load_pem_x509_certificate(coordinator.certificate.read_bytes())


def public_key(deployment: Deployment, site: str, path: Path) -> Path:
    coordinator = read_site(deployment.sites[site]).coordinator
    assert coordinator
    key = load_key(coordinator.key).public_key()
    path.write_bytes(key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH))
    return path


def test_a_running_federation_renews_certificates_rosters_and_keys_and_takes_a_removed_site_back(
    tmp_path: Path,
) -> None:
    deployment = deploy_tiny(tmp_path / "there", tiny_plan())
    folder, now = deployment.folder, datetime.now(UTC)
    authority = read_identity(folder.authority, folder.authority_key)
    north = read_site(deployment.sites["north"]).coordinator
    assert north
    # The certificate that north has ends in ten days; the kit brought a roster without the sites that came later.
    roster = administration.list_sites(folder)
    [key] = [site.public_key for site in roster.sites if site.name == "north"]
    north.certificate.write_bytes(issue_site(authority, "north", key, now, 10))
    before = read_roster(north.roster.read_bytes(), authority.certificate)
    processes: list[Started] = []
    with ended(processes):
        processes.append(start_server(deployment, "--stay"))
        processes.append(start_client(deployment, "north"))
        deployment.wait_for(online("north"), "north online", PATIENCE_SECONDS)
        renewed = lambda _: certificate_of(deployment, "north").not_valid_after_utc > now + timedelta(days=700)  # noqa: E731
        deployment.wait_for(renewed, "north's new certificate", PATIENCE_SECONDS)
        assert read_roster(north.roster.read_bytes(), authority.certificate).serial > before.serial
        deployment.wait_for(online("north"), "north online with it", PATIENCE_SECONDS)

        # The gateway gives a member its own papers, and nothing for another path, method or query.
        origin = f"https://127.0.0.1:{read_server(folder.settings).port}"
        with httpx.Client(verify=client_context(north), trust_env=False, timeout=60) as member:
            papers = read_papers(member.get(origin + MEMBER_PATH).content)
            assert papers.certificate == north.certificate.read_bytes()
            assert papers.certificate == folder.certificate_of("north").read_bytes()
            for path, method, code in (
                ("?site=south", "GET", 400), ("", "POST", 405), ("/", "GET", 404), ("/south", "GET", 404)
            ):  # fmt: skip
                assert member.request(method, origin + MEMBER_PATH + path).status_code == code, path

        # A new key: the old one is refused, the site stays on the roster under its name.
        private, public = new_node_key()
        south = read_site(deployment.sites["south"]).coordinator
        assert south
        old = client_context(south)
        (tmp_path / "new.pub").write_bytes(public)
        kit = administration.renew_site(folder, "south", tmp_path / "new.pub")
        with zipfile.ZipFile(kit) as archive:
            assert "south/node.key" not in archive.namelist()
            assert all(entry.date_time[0] == now.year for entry in archive.infolist())
            south.certificate.write_bytes(archive.read("south/site.crt"))
            south.roster.write_bytes(archive.read("south/roster.signed.json"))
        south.key.write_bytes(private)
        with httpx.Client(verify=old, trust_env=False, timeout=60) as former:
            assert former.get(origin + MEMBER_PATH).status_code == 403
        processes.append(start_client(deployment, "south"))
        deployment.wait_for(online("south"), "south online with its new key", PATIENCE_SECONDS)

        # Removed and added again with the same key, while everything runs.
        west = start_client(deployment, "west")
        processes.append(west)
        deployment.wait_for(online("west"), "west online", PATIENCE_SECONDS)
        pub = public_key(deployment, "west", tmp_path / "west.pub")
        administration.remove_site(folder, "west")
        gone = lambda s: "west" not in [site.name for site in s.sites]  # noqa: E731
        deployment.wait_for(gone, "a roster without west", PATIENCE_SECONDS)
        administration.add_site(folder, "west", pub)
        status: CoordinatorStatus = deployment.wait_for(online("west"), "west online again", PATIENCE_SECONDS)
    assert status.roster_serial == administration.list_sites(folder).serial
    assert {site.version for site in status.sites if site.name != "west"} != {None}
