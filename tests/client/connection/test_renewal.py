"""What a site keeps of what the coordinator hands out, and every forgery that it must not keep."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from permmoe.errors import ConfigurationError
from permmoe.federated.audit import LedgerHead, countersign
from permmoe.federated.membership import MAX_PAPERS_BYTES, MemberPapers, read_papers, write_papers
from permmoe.federated.roster import Roster, read_roster, sign_roster
from permmoe_client.connection.identity import client_context, load_key
from permmoe_client.connection.renewal import renew
from permmoe_client.release.ledger import Ledger, LedgerError
from permmoe_client.site import Coordinator
from permmoe_server.provisioning.authority import Identity, issue_server, issue_site, new_authority, new_node_key

NOW = datetime(2026, 5, 7, tzinfo=UTC)
AUTHORITY, STRANGER = new_authority("Tiny", NOW), new_authority("Tiny", NOW)
PRIVATE, PUBLIC = new_node_key()
OTHER = new_node_key()[1].decode()
ROSTER = Roster(federation="Tiny", serial=4).with_site("north", PUBLIC.decode())


@dataclass(frozen=True)
class Hospital:
    coordinator: Coordinator

    def files(self) -> tuple[bytes, bytes]:
        return self.coordinator.roster.read_bytes(), self.coordinator.certificate.read_bytes()

    def renew(self, papers: MemberPapers | bytes, now: datetime = NOW) -> bool:
        content = papers if isinstance(papers, bytes) else write_papers(papers)
        return renew(self.coordinator, "north", self.ledger, lambda: content, "1.0", now)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.coordinator.key.parent / "ledger", "north", load_key(self.coordinator.key))


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    (tmp_path / "ca.crt").write_bytes(AUTHORITY.certificate_pem)
    (tmp_path / "node.key").write_bytes(PRIVATE)
    (tmp_path / "node.key").chmod(0o600)
    (tmp_path / "roster").write_bytes(sign_roster(ROSTER, AUTHORITY.key))
    (tmp_path / "site.crt").write_bytes(certificate(days=30))
    (tmp_path / "roster").chmod(0o640)
    names = {"authority": "ca.crt", "key": "node.key", "roster": "roster", "certificate": "site.crt"}
    files = {name: tmp_path / file for name, file in names.items()}
    return Hospital(Coordinator(host="127.0.0.1", port=1, **files))


def certificate(name: str = "north", key: str = PUBLIC.decode(), days: int = 400, **changes: object) -> bytes:
    return issue_site(changes.get("by", AUTHORITY), name, key, changes.get("now", NOW), days)


def roster(serial: int = 9, by: object = AUTHORITY, federation: str = "Tiny", key: str = PUBLIC.decode()) -> bytes:
    made = Roster(federation=federation, serial=serial - 2).with_site("north", key).with_site("south", OTHER)
    return sign_roster(made, by.key)


def test_a_newer_certificate_and_roster_are_kept_with_the_modes_that_the_files_had(hospital: Hospital) -> None:
    papers = MemberPapers(roster(), certificate(), "1.0")
    assert hospital.renew(papers) and hospital.files() == (papers.roster, papers.certificate)
    assert read_roster(hospital.files()[0], AUTHORITY.certificate).serial == 9
    assert stat.S_IMODE(hospital.coordinator.roster.stat().st_mode) == 0o640
    assert not hospital.renew(papers), "what is there already is no news"


FORGERIES: dict[str, Callable[[], MemberPapers]] = {
    "a roster of another authority": lambda: MemberPapers(roster(by=STRANGER), None, "1.0"),
    "a roster that goes back": lambda: MemberPapers(roster(serial=3), None, "1.0"),
    "a roster of another federation": lambda: MemberPapers(roster(federation="Other"), None, "1.0"),
    "a roster with another key for this site": lambda: MemberPapers(
        roster(key=new_node_key()[1].decode()), None, "1.0"
    ),
    "a roster without this site": lambda: MemberPapers(
        sign_roster(Roster(federation="Tiny", serial=9), AUTHORITY.key), None, "1.0"
    ),
    "no roster": lambda: MemberPapers(b"{}", None, "1.0"),
    "a certificate of another authority": lambda: MemberPapers(b"", certificate(by=STRANGER), "1.0"),
    "a certificate for another key": lambda: MemberPapers(b"", certificate(key=OTHER), "1.0"),
    "a certificate of another site": lambda: MemberPapers(b"", certificate(name="south"), "1.0"),
    "a certificate that ends sooner": lambda: MemberPapers(b"", certificate(days=10), "1.0"),
    "a certificate of the future": lambda: MemberPapers(b"", certificate(now=NOW + timedelta(days=2)), "1.0"),
    "a server's certificate": lambda: MemberPapers(
        b"", issue_server(AUTHORITY, "127.0.0.1", NOW, 400).certificate_pem, "1.0"
    ),
    "no certificate": lambda: MemberPapers(b"", b"-----BEGIN", "1.0"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_what_the_authority_did_not_sign_for_this_site_is_not_kept(forgery: str, hospital: Hospital) -> None:
    before = hospital.files()
    assert not hospital.renew(FORGERIES[forgery]()) and hospital.files() == before


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b'{"roster": 3}', b"x" * (MAX_PAPERS_BYTES + 1)])
def test_an_answer_that_is_none_changes_nothing(answer: bytes, hospital: Hospital) -> None:
    before = hospital.files()
    assert not hospital.renew(answer) and hospital.files() == before


def test_two_versions_are_told_apart_in_a_clear_word(hospital: Hospital, caplog: pytest.LogCaptureFixture) -> None:
    hospital.renew(MemberPapers(roster(), None, "2.0"))
    assert "runs permmoe 1.0 and the coordinator 2.0" in caplog.text
    assert read_papers(write_papers(MemberPapers(b"", None, "\x1b[2J"))).version == "unknown"


def test_a_folder_that_cannot_be_written_is_said_and_ends_nothing(
    hospital: Hospital, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("permmoe_client.connection.renewal.write_file", full)
    assert not hospital.renew(MemberPapers(roster(), certificate(), "1.0"))
    assert "site.crt cannot be written (Read-only file system)" in caplog.text


def test_a_certificate_that_ends_soon_and_was_not_renewed_is_warned_of(
    hospital: Hospital, caplog: pytest.LogCaptureFixture
) -> None:
    hospital.renew(MemberPapers(hospital.files()[0], None, "1.0"))
    assert "ends on 2026-06-06" in caplog.text and "renew-site" in caplog.text


def test_a_certificate_that_has_ended_already_says_what_to_do(hospital: Hospital) -> None:
    with pytest.raises(ConfigurationError, match=r"expired on 2026-06-06.*renew-site.*site\.crt"):
        client_context(hospital.coordinator, NOW + timedelta(days=31))


def test_the_certificate_is_written_anew_and_brings_no_other_text(hospital: Hospital) -> None:
    hospital.renew(MemberPapers(b"", b"ignore me\n" + certificate() + b"more text\n", "1.0"))
    kept = hospital.files()[1]
    assert b"text" not in kept and b"ignore" not in kept
    assert x509.load_pem_x509_certificate(kept).not_valid_after_utc > NOW + timedelta(days=300)


def receipt_for(head: LedgerHead, server: Identity | None = None) -> bytes:
    server = server or issue_server(AUTHORITY, "127.0.0.1", NOW, 90)
    return countersign(head, server.key, server.certificate, server.certificate_pem.decode()).line()


def papers_with(receipt: bytes | None) -> MemberPapers:
    return MemberPapers(sign_roster(ROSTER, AUTHORITY.key), None, "1.0", receipt)


def test_a_ledger_with_the_entry_of_the_newest_receipt_goes_on(hospital: Hospital) -> None:
    hospital.renew(papers_with(None))
    head = hospital.ledger.append("training", {"bytes": 1})
    hospital.renew(papers_with(receipt_for(head)))
    hospital.ledger.append("training", {"bytes": 2})
    hospital.renew(papers_with(receipt_for(head)))


def test_attack_a_ledger_put_back_from_a_copy_between_two_studies_is_found_at_the_connection(
    hospital: Hospital, tmp_path: Path
) -> None:
    hospital.ledger.append("training", {"study": "one", "bytes": 1})
    shutil.copytree(tmp_path / "ledger", tmp_path / "copy")
    newest = receipt_for(hospital.ledger.append("training", {"study": "one", "bytes": 2}))
    shutil.rmtree(tmp_path / "ledger")
    with pytest.raises(LedgerError, match="ends at entry 0"):
        hospital.renew(papers_with(newest))
    shutil.move(tmp_path / "copy", tmp_path / "ledger")
    with pytest.raises(LedgerError, match="ends at entry 1, but the coordinator has a receipt for entry 2"):
        hospital.renew(papers_with(newest))
    hospital.ledger.append("training", {"study": "two", "bytes": 3})
    with pytest.raises(LedgerError, match="put back from a copy and went on"):
        hospital.renew(papers_with(newest))


def test_a_receipt_that_no_server_of_the_federation_signed_stops_nobody(hospital: Hospital) -> None:
    forged = receipt_for(LedgerHead("north", 9, "0" * 64), issue_server(STRANGER, "127.0.0.1", NOW, 90))
    hospital.renew(papers_with(forged))
    hospital.renew(papers_with(receipt_for(LedgerHead("south", 9, "0" * 64))))
    hospital.renew(papers_with(b"{}"))
