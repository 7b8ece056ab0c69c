"""What the gateway hands a member: its own papers, from the folder as it is at that moment."""

from __future__ import annotations

import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from permmoe.federated.membership import MemberPapers, read_papers
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.authority import issue_site, load_certificate, new_node_key, read_identity
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.members import Members
from permmoe_server.provisioning.papers import PapersDesk, read_versions


@pytest.fixture
def folder(tmp_path: Path) -> FederationFolder:
    made = FederationFolder(tmp_path / "federation")
    administration.init(made, "Dementia 7", "fl.example.org")
    for name in ("north", "south"):
        administration.add_site(made, name)
    return made


def shown(folder: FederationFolder, site: str) -> bytes:
    return load_certificate(folder.certificate_of(site)).public_bytes(Encoding.DER)


def desk(folder: FederationFolder) -> PapersDesk:
    return PapersDesk(folder, Members(folder.roster, load_certificate(folder.authority)), "2.0")


def ask(folder: FederationFolder, certificate: bytes, version: str = "1.0") -> MemberPapers:
    return read_papers(desk(folder).answer(certificate, version))


def test_each_member_gets_its_own_newest_certificate_and_the_roster(folder: FederationFolder) -> None:
    before = shown(folder, "north")
    administration.renew_site(folder, "north")
    for site, certificate in (("north", before), ("south", shown(folder, "south"))):
        papers = ask(folder, certificate)
        assert papers.certificate == folder.certificate_of(site).read_bytes()
        assert papers.roster == folder.roster.read_bytes() and papers.version == "2.0"


def test_the_first_kit_with_the_sites_only_private_key_outlives_a_renewal(folder: FederationFolder) -> None:
    first = folder.kit_of("north").read_bytes()
    renewed = administration.renew_site(folder, "north")
    with zipfile.ZipFile(renewed) as archive:
        assert "north/node.key" not in archive.namelist()
        assert archive.read("north/site.crt") == folder.certificate_of("north").read_bytes()
    assert folder.kit_of("north").read_bytes() == first
    administration.remove_site(folder, "north")
    assert not renewed.exists() and not folder.certificate_of("north").exists()


def test_a_key_that_is_not_the_kept_certificates_gets_no_certificate(folder: FederationFolder, tmp_path: Path) -> None:
    old = shown(folder, "north")
    (tmp_path / "new.pub").write_bytes(new_node_key()[1])
    administration.renew_site(folder, "north", tmp_path / "new.pub")
    assert ask(folder, old).certificate is None
    folder.certificate_of("south").write_bytes(folder.certificate_of("north").read_bytes())
    assert ask(folder, shown_of_roster(folder, "south")).certificate is None


def shown_of_roster(folder: FederationFolder, name: str) -> bytes:
    """A certificate for the key that the roster has for a site, whatever file the coordinator keeps."""
    [key] = [site.public_key for site in administration.list_sites(folder).sites if site.name == name]
    authority = read_identity(folder.authority, folder.authority_key)
    pem = issue_site(authority, name, key, datetime.now(UTC))
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def test_the_version_that_a_site_says_is_kept_and_any_other_text_is_not(folder: FederationFolder) -> None:
    folder.state.mkdir()
    there = desk(folder)
    for version, kept in (("1.0.dev3+g1", "1.0.dev3+g1"), ("\x1b[2J<script>", "unknown"), ("9" * 99, "unknown")):
        there.answer(shown(folder, "north"), version)
        assert read_versions(folder.versions) == {"north": kept}


def test_the_coordinator_renews_a_certificate_when_a_third_of_its_time_is_left(folder: FederationFolder) -> None:
    now = datetime.now(UTC)
    kits = {path: path.read_bytes() for path in folder.kits.iterdir()}
    before = load_certificate(folder.certificate_of("north")).not_valid_after_utc
    assert administration.renew_due(folder, now + timedelta(days=480)) == ()
    assert administration.renew_due(folder, now + timedelta(days=490)) == ("north", "south")
    after = load_certificate(folder.certificate_of("north"))
    assert after.not_valid_after_utc > before + timedelta(days=480)
    after.verify_directly_issued_by(load_certificate(folder.authority))
    assert {path: path.read_bytes() for path in folder.kits.iterdir()} == kits
    # A federation of an older version kept none: they are made.
    folder.certificate_of("north").unlink()
    assert administration.renew_due(folder, now) == ("north",)


def test_a_certificate_never_outlives_the_authority_and_is_not_renewed_for_ever(folder: FederationFolder) -> None:
    end = load_certificate(folder.authority).not_valid_after_utc
    late = end - timedelta(days=30)
    administration.renew_due(folder, late)
    assert load_certificate(folder.certificate_of("north")).not_valid_after_utc == end
    assert administration.renew_due(folder, late + timedelta(days=1)) == ()
