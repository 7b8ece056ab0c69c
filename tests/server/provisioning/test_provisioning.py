"""A federation's folder: what is made, who may read it, and that no command touches another site."""

from __future__ import annotations

import shutil
import ssl
import stat
import subprocess
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from permmoe.errors import ConfigurationError
from permmoe.federated.roster import Roster, RosterError, fingerprint, read_roster, sign_roster
from permmoe_client.connection.identity import check_roster, client_context, load_key
from permmoe_client.site import read_site
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.authority import issue_server, new_authority, new_node_key
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.folder_locks import running
from permmoe_server.settings import read_server
from permmoe_simulation.engines.local_deployment import unpack_kit


@pytest.fixture
def folder(tmp_path: Path) -> FederationFolder:
    made = FederationFolder(tmp_path / "federation")
    administration.init(made, "Dementia 7", "fl.example.org", 9443)
    return made


def content(folder: FederationFolder) -> dict[str, bytes]:
    return {str(p.relative_to(folder.path)): p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}


def test_keys_are_readable_by_their_owner_alone(folder: FederationFolder) -> None:
    administration.add_site(folder, "north")
    for path in (folder.authority_key, folder.server_key, folder.kits / "north.zip"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(folder.path.stat().st_mode) == stat.S_IMODE(folder.kits.stat().st_mode) == 0o700


def test_the_server_certificate_is_for_its_host_and_for_this_machine(folder: FederationFolder) -> None:
    certificate = administration.server_identity(folder).certificate
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org", "localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_the_settings_that_init_writes_load_with_their_values(folder: FederationFolder) -> None:
    settings = read_server(folder.settings)
    assert (settings.host, settings.port, settings.admin_host) == ("fl.example.org", 9443, "127.0.0.1")


def test_init_refuses_a_folder_that_holds_anything(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="not empty"):
        administration.init(FederationFolder(tmp_path), "Tiny", "127.0.0.1")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_kit_is_all_that_a_site_needs_to_connect(folder: FederationFolder, tmp_path: Path) -> None:
    site_file = unpack_kit(administration.add_site(folder, "north"), tmp_path / "hospital")
    site = read_site(site_file)
    assert site.name == "north" and site.coordinator and site.approved_studies == ()
    assert client_context(site.coordinator).verify_mode is ssl.CERT_REQUIRED
    assert check_roster(site.coordinator, "north").names == ("north",)
    readme = (site_file.parent / "README.txt").read_text()
    authority = x509.load_pem_x509_certificate(folder.authority.read_bytes())
    assert fingerprint(authority)[:39] in readme and fingerprint(authority)[40:] in readme


def test_a_sites_own_key_stays_with_it(folder: FederationFolder, tmp_path: Path) -> None:
    private, public = new_node_key()
    (tmp_path / "key.pub").write_bytes(public)
    kit = administration.add_site(folder, "north", tmp_path / "key.pub")
    with zipfile.ZipFile(kit) as archive:
        assert "north/node.key" not in archive.namelist()
    site_file = unpack_kit(kit, tmp_path / "hospital")
    (site_file.parent / "node.key").write_bytes(private)
    (site_file.parent / "node.key").chmod(0o600)
    site = read_site(site_file)
    assert site.coordinator and client_context(site.coordinator) and check_roster(site.coordinator, "north")


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs OpenSSH")
def test_a_key_of_ssh_keygen_is_taken_as_the_readme_says(folder: FederationFolder, tmp_path: Path) -> None:
    key = tmp_path / "node.key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(key)], check=True)
    administration.add_site(folder, "north", tmp_path / "node.key.pub")
    assert load_key(key).curve.name == "secp384r1"


def test_a_sites_certificate_can_neither_serve_nor_issue(folder: FederationFolder, tmp_path: Path) -> None:
    site_file = unpack_kit(administration.add_site(folder, "north"), tmp_path)
    certificate = x509.load_pem_x509_certificate((site_file.parent / "site.crt").read_bytes())
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_change_touches_no_other_site(folder: FederationFolder) -> None:
    for name in ("north", "south"):
        administration.add_site(folder, name)
    before = content(folder)
    administration.add_site(folder, "west")
    administration.remove_site(folder, "south")
    administration.rotate_certificate(folder)
    after = content(folder)
    assert {name for name in before if before[name] != after.get(name)} == {
        "certificates/south.crt", "kits/south.zip", "roster.signed.json", "server.crt", "server.key",
    }  # fmt: skip
    assert administration.list_sites(folder).names == ("north", "west")


def test_a_certificate_that_was_rotated_still_chains_to_what_sites_have(folder: FederationFolder) -> None:
    administration.rotate_certificate(folder)
    server = administration.server_identity(folder).certificate
    server.verify_directly_issued_by(x509.load_pem_x509_certificate(folder.authority.read_bytes()))


@pytest.mark.parametrize("name", ["North", "../x", "", "a" * 65, "nörd"])
def test_a_name_that_could_be_a_path_is_refused(name: str, folder: FederationFolder) -> None:
    before = content(folder)
    with pytest.raises(ConfigurationError, match="cannot name a site"):
        administration.add_site(folder, name)
    assert {k: v for k, v in content(folder).items() if k != ".lock"} == {
        k: v for k, v in before.items() if k != ".lock"
    }


def test_two_sites_cannot_share_a_key(folder: FederationFolder, tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_bytes(new_node_key()[1])
    administration.add_site(folder, "north", tmp_path / "key.pub")
    with pytest.raises(ConfigurationError, match="the key of site 'north'"):
        administration.add_site(folder, "south", tmp_path / "key.pub")


def test_a_second_coordinator_on_a_folder_is_refused(folder: FederationFolder) -> None:
    refused = pytest.raises(ConfigurationError, match="is running on")
    with running(folder), refused, running(folder):
        pass


AUTHORITY = new_authority("Tiny", datetime.now(UTC))


def test_a_roster_is_believed_by_its_signature_alone() -> None:
    roster = Roster(federation="Tiny", serial=1).with_site("north", new_node_key()[1].decode())
    signed = sign_roster(roster, AUTHORITY.key)
    assert read_roster(signed, AUTHORITY.certificate) == roster
    stranger = new_authority("Tiny", datetime.now(UTC))
    for bad in (signed.replace(b"north", b"nurth"), sign_roster(roster, stranger.key), b"", b"{}", signed[:-9]):
        with pytest.raises(RosterError):
            read_roster(bad, AUTHORITY.certificate)


def test_an_old_roster_is_refused() -> None:
    old = sign_roster(Roster(federation="Tiny", serial=3), AUTHORITY.key)
    with pytest.raises(RosterError, match="serial number 3, but number 4"):
        read_roster(old, AUTHORITY.certificate, minimum_serial=4)


def test_a_site_whose_roster_was_not_signed_does_not_connect(folder: FederationFolder, tmp_path: Path) -> None:
    site_file = unpack_kit(administration.add_site(folder, "north"), tmp_path)
    site = read_site(site_file)
    assert site.coordinator
    site.coordinator.roster.write_bytes(site.coordinator.roster.read_bytes().replace(b"Dementia 7", b"Dementia 8"))
    with pytest.raises(RosterError, match="signature is not the coordinator's"):
        check_roster(site.coordinator, "north")


def test_a_key_or_certificate_that_does_not_fit_is_named_with_a_remedy(
    folder: FederationFolder, tmp_path: Path
) -> None:
    site_file = unpack_kit(administration.add_site(folder, "north"), tmp_path)
    coordinator = read_site(site_file).coordinator
    assert coordinator
    with pytest.raises(ConfigurationError, match="expired on"):
        client_context(coordinator, datetime(2090, 1, 1, tzinfo=UTC))
    coordinator.key.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_key(coordinator.key)
    coordinator.key.write_bytes(new_node_key()[0])
    coordinator.key.chmod(0o600)
    with pytest.raises(ConfigurationError, match="is not the certificate of"):
        client_context(coordinator)
    with pytest.raises(ConfigurationError, match="no site 'north' with the key"):
        check_roster(coordinator, "north")


def test_an_authority_that_has_ended_issues_nothing() -> None:
    with pytest.raises(ConfigurationError, match="authority expired"):
        issue_server(AUTHORITY, "127.0.0.1", datetime(2090, 1, 1, tzinfo=UTC), days=90)
