"""The list of withdrawn patients on disk: it grows, survives restarts, is missed where it is gone, and tells nobody."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from permmoe.federated.audit import AuditError
from permmoe_client.release.ledger import Ledger, LedgerError
from permmoe_client.release.withdrawals import NO_COMMITMENT, NOBODY_WITHDREW, WithdrawalList, read_withdrawals

KEY = ec.generate_private_key(ec.SECP384R1())


def ledger(folder: Path) -> Ledger:
    return Ledger(folder, "north", KEY)


def listed(folder: Path) -> WithdrawalList:
    return WithdrawalList(ledger(folder))


def kept_file(folder: Path) -> Path:
    [file] = folder.glob("withdrawn-*.json")
    return file


def test_nobody_withdrew_where_there_is_no_ledger_or_no_entry_of_it(tmp_path: Path) -> None:
    assert read_withdrawals(None) == read_withdrawals(ledger(tmp_path)) == NOBODY_WITHDREW
    assert "anybody" not in NOBODY_WITHDREW.absent


def test_who_withdrew_is_absent_after_every_restart_and_nobody_else_is(tmp_path: Path) -> None:
    listed(tmp_path).add(["p1", "p2"])
    listed(tmp_path).add(["p3"])
    absent = listed(tmp_path).read().absent
    assert {"p1", "p2", "p3"} == absent.subjects and "p2" in absent and "p4" not in absent


def test_a_hospital_that_withdrew_is_absent_with_everybody(tmp_path: Path) -> None:
    listed(tmp_path).add([], is_whole_site=True)
    assert "anybody" in listed(tmp_path).read().absent
    listed(tmp_path).add(["p1"])
    assert listed(tmp_path).read().is_whole_site, "a later withdrawal of a patient takes nothing back"


def test_a_second_withdrawal_of_the_same_patient_changes_nothing(tmp_path: Path) -> None:
    first = listed(tmp_path).add(["p1", "p1", "p2"])
    assert first.added == ("p1", "p2") and first.head and first.head.sequence == 1
    again = listed(tmp_path).add(["p2", "p1"])
    assert again.added == () and again.head is None and len(list(ledger(tmp_path).entries())) == 1


def test_the_ledger_has_a_range_and_digests_and_the_list_is_its_owners_alone(tmp_path: Path) -> None:
    listed(tmp_path).add(["somebody-7", "somebody-8"])
    [entry] = ledger(tmp_path).entries()
    assert entry.kind == "withdrawal" and entry.facts["withdrawn"] == "1-4"
    assert b"somebody" not in (tmp_path / "ledger.jsonl").read_bytes()
    assert kept_file(tmp_path).stat().st_mode & 0o777 == 0o600


def test_attack_whoever_knows_a_patients_name_cannot_find_it_in_the_ledger(tmp_path: Path) -> None:
    """Without the salt no digest of a name, keyed by anything in the ledger, is in an entry."""
    listed(tmp_path / "a").add(["p1"])
    listed(tmp_path / "b").add(["p1"])
    one, other = (next(ledger(tmp_path / name).entries()).facts for name in "ab")
    assert one["commitments"] != other["commitments"] and one["list_sha256"] != other["list_sha256"]


def test_a_hospital_proves_later_whom_an_entry_meant(tmp_path: Path) -> None:
    listed(tmp_path).add(["p1"])
    listed(tmp_path).add(["p2"])
    kept = listed(tmp_path).read()
    [first, second] = kept.commitments()
    # What is shown of p2: its salt. Of p1 only the commitment, which tells nothing.
    shown = hmac.new(bytes.fromhex(kept.subjects["p2"]), b"p2", hashlib.sha256).hexdigest()
    before = hashlib.sha256(bytes.fromhex(NO_COMMITMENT) + bytes.fromhex(first)).digest()
    head = hashlib.sha256(before + bytes.fromhex(shown)).hexdigest()
    assert shown == second and [e.facts["commitments"] for e in ledger(tmp_path).entries()] == [before.hex(), head]


def test_a_list_that_is_gone_or_changed_is_refused_in_words(tmp_path: Path) -> None:
    listed(tmp_path).add(["p1", "p2"])
    file = kept_file(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"p2", b"p9"))
    with pytest.raises(LedgerError, match="nobody knows who withdrew; restore it from the back-up"):
        listed(tmp_path).read()
    file.unlink()
    with pytest.raises(LedgerError, match="absent or was changed"):
        listed(tmp_path).add(["p3"])
    file.write_bytes(content)
    assert set(listed(tmp_path).read().subjects) == {"p1", "p2"}


def test_attack_somebody_taken_off_the_list_by_the_sites_own_key_is_found(tmp_path: Path) -> None:
    """Whoever has the key writes a shorter list and an entry for it; the older entries have the longer one's head."""
    listed(tmp_path).add(["p1"])
    listed(tmp_path).add(["p2"])
    whole = list(ledger(tmp_path).entries())
    listed(tmp_path).verify(whole)
    kept = json.loads(kept_file(tmp_path).read_bytes())
    del kept["subjects"]["p1"]
    content = json.dumps(kept).encode()
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / f"withdrawn-{digest}.json").write_bytes(content)
    ledger(tmp_path).append("withdrawal", {**whole[-1].facts, "list_sha256": digest})
    assert "p1" not in listed(tmp_path).read().absent
    with pytest.raises(AuditError, match=r"entry 1: .* taken off the list"):
        listed(tmp_path).verify(ledger(tmp_path).entries())


def test_who_is_left_out_beside_them_is_kept_and_a_later_withdrawal_waits_for_its_own(tmp_path: Path) -> None:
    listed(tmp_path).add(["p1"])
    listed(tmp_path).add(["p2"])
    kept = listed(tmp_path).accompany(["p1"], ["o1", "o2"])
    assert kept == listed(tmp_path).read() and kept.beside == ("o1", "o2") and kept.unaccompanied == ("p2",)
    assert "o1" not in kept.absent, "they take part in all but trainings"
    listed(tmp_path).verify(ledger(tmp_path).entries())


def test_a_kill_between_file_and_entry_leaves_the_list_as_it_was(tmp_path: Path) -> None:
    listed(tmp_path).add(["p1"])
    (tmp_path / f"withdrawn-{'0' * 64}.json").write_text("{}")
    assert set(listed(tmp_path).read().subjects) == {"p1"}
    listed(tmp_path).add(["p2"])
    assert kept_file(tmp_path)


def test_withdrawals_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    threads = [threading.Thread(target=lambda n=n: listed(tmp_path).add([f"p{n}"])) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(listed(tmp_path).read().subjects) == 8
    listed(tmp_path).verify(ledger(tmp_path).entries())
