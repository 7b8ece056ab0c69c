"""The folder of a region: what is in it, what is not, and which sites are told to connect to it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from permmoe.errors import ConfigurationError
from permmoe_client.connection.identity import client_context
from permmoe_client.site import read_site
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.authority import read_identity
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.folder_locks import running
from permmoe_server.provisioning.regions import add_region, remove_region
from permmoe_server.settings import read_server
from permmoe_simulation.engines.local_deployment import unpack_kit


@pytest.fixture
def folder(tmp_path: Path) -> FederationFolder:
    made = FederationFolder(tmp_path / "federation")
    administration.init(made, "Dementia 7", "fl.example.org", 9443)
    add_region(made, "west", "west.example.org", 9444)
    return made


def regions_of(folder: FederationFolder) -> dict[str, str]:
    return {site.name: site.region for site in administration.list_sites(folder).sites}


def test_a_region_has_what_its_programs_need_and_no_key_that_can_add_sites(folder: FederationFolder) -> None:
    region = folder.region("west")
    assert {path.name for path in region.path.iterdir()} == {
        "ca.crt", "server.crt", "server.key", "server.yaml", "roster.signed.json", "executor.secret",
    }  # fmt: skip
    assert folder.authority_key.read_bytes() not in {path.read_bytes() for path in region.path.iterdir()}
    for path in (region.server_key, region.executor_secret):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(region.path.stat().st_mode) == 0o700
    settings, server = read_server(region.settings), read_identity(region.server, region.server_key)
    assert (settings.host, settings.port) == ("west.example.org", 9444)
    assert server.key_pem != folder.server_key.read_bytes()
    server.certificate.verify_directly_issued_by(read_identity(folder.authority, folder.authority_key).certificate)


def test_a_sites_kit_leads_to_its_region_and_the_roster_says_where_it_is(
    folder: FederationFolder, tmp_path: Path
) -> None:
    administration.add_site(folder, "north", region="west")
    administration.add_site(folder, "south")
    assert regions_of(folder) == {"north": "west", "south": ""}
    reached = {}
    for name in ("north", "south"):
        coordinator = read_site(unpack_kit(folder.kit_of(name), tmp_path)).coordinator
        assert coordinator
        client_context(coordinator)
        reached[name] = (coordinator.host, coordinator.port)
    assert reached == {"north": ("west.example.org", 9444), "south": ("fl.example.org", 9443)}


def test_a_site_moves_with_its_key_and_stays_where_it_is_when_that_is_renewed(
    folder: FederationFolder, tmp_path: Path
) -> None:
    administration.add_site(folder, "north")
    key = administration.list_sites(folder).sites[0].public_key
    kit = administration.renew_site(folder, "north", region="west")
    assert read_site(unpack_kit(kit, tmp_path).parent.parent / "north" / "site.yaml").coordinator.port == 9444
    administration.renew_site(folder, "north")
    [site] = administration.list_sites(folder).sites
    assert (site.region, site.public_key) == ("west", key)
    administration.renew_site(folder, "north", region="")
    assert regions_of(folder) == {"north": ""}


@pytest.mark.parametrize("name", ["wets", "..", "../..", "", "/tmp"])
def test_a_region_that_there_is_not_is_refused_by_name_and_nothing_changes(name: str, folder: FederationFolder) -> None:
    administration.add_site(folder, "north", region="west")
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    if name:
        with pytest.raises(ConfigurationError, match="no region"):
            administration.add_site(folder, "south", region=name)
        with pytest.raises(ConfigurationError, match="no region"):
            administration.rotate_certificate(folder, name)
    with pytest.raises(ConfigurationError, match=r"cannot name a region|already"):
        add_region(folder, name if name != "wets" else "west", "x.example.org")
    with pytest.raises(ConfigurationError, match="no host name"):
        add_region(folder, "east", "https://x")
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_a_region_goes_once_no_hospital_is_at_home_there_and_it_does_not_run_from_its_folder(
    folder: FederationFolder,
) -> None:
    administration.add_site(folder, "north", region="west")
    administration.add_site(folder, "south", region="west")
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigurationError, match=r"region 'west': north, south; .*renew-site"):
        remove_region(folder, "west")
    with pytest.raises(ConfigurationError, match="no region 'wets'"):
        remove_region(folder, "wets")
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
    administration.renew_site(folder, "north", region="")
    administration.remove_site(folder, "south")
    with running(folder.region("west")), pytest.raises(ConfigurationError, match="is running on"):
        remove_region(folder, "west")
    assert folder.region("west").executor_secret.exists()
    remove_region(folder, "west")
    assert FederationFolder.all_in(folder.regions) == () and not list(folder.path.glob(".region*"))
    add_region(folder, "west", "west.example.org")
    administration.renew_site(folder, "north", region="west")
    assert regions_of(folder) == {"north": "west"}


def test_a_regions_certificate_is_renewed_and_the_coordinators_stays(folder: FederationFolder) -> None:
    region, own = folder.region("west"), folder.server.read_bytes()
    before = region.server.read_bytes()
    administration.rotate_certificate(folder, "west")
    renewed = read_identity(region.server, region.server_key).certificate
    assert region.server.read_bytes() != before and folder.server.read_bytes() == own
    assert "regional" in renewed.subject.rfc4514_string()


def test_a_federation_without_regions_has_the_roster_that_it_always_had(tmp_path: Path) -> None:
    folder = FederationFolder(tmp_path / "plain")
    administration.init(folder, "Plain", "fl.example.org")
    administration.add_site(folder, "north")
    assert b"region" not in folder.roster.read_bytes()
