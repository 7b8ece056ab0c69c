"""The account of released sums on disk: it survives restarts, is refused where it was touched, and names nobody."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from permmoe_client.release.ledger import Ledger, LedgerError
from permmoe_client.release.patient_account import MOST_QUESTIONS, PatientAccount

KEY = ec.generate_private_key(ec.SECP384R1())
LEAST = 5
TWENTY = {f"subject-{i}": 3 for i in range(20)}


def account(folder: Path, key: ec.EllipticCurvePrivateKey = KEY) -> PatientAccount:
    return PatientAccount(Ledger(folder, "north", key))


def kept_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("patients-*.json"))


def test_who_counts_in_a_question_is_fixed_the_first_time_restarts_included(tmp_path: Path) -> None:
    first = account(tmp_path).groups("validation", TWENTY, LEAST)
    again = account(tmp_path).groups("validation", {**TWENTY, **{f"new-{i}": 3 for i in range(9)}}, LEAST)
    assert first == again == TWENTY
    assert len(account(tmp_path).groups("another", {**TWENTY, **{f"new-{i}": 3 for i in range(9)}}, LEAST)) == 29


def test_a_patient_whose_examination_was_withdrawn_takes_others_along(tmp_path: Path) -> None:
    account(tmp_path).groups("validation", TWENTY, LEAST)
    without = {**TWENTY, "subject-7": 1}
    later = account(tmp_path).groups("validation", without, LEAST)
    assert len(later) == 15 and "subject-7" not in later and set(later.values()) == {3}


def test_the_ledger_states_the_account_once_and_neither_names_anybody(tmp_path: Path) -> None:
    for _ in range(3):
        account(tmp_path).groups("validation", TWENTY, LEAST)
    [entry] = Ledger(tmp_path, "north", KEY).entries()
    assert entry.kind == "account" and entry.facts["patients"] == "20-49"
    [file] = kept_files(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"subject" not in file.read_bytes() + (tmp_path / "ledger.jsonl").read_bytes()


def test_another_sites_key_gives_other_pseudonyms(tmp_path: Path) -> None:
    account(tmp_path / "a").groups("validation", TWENTY, LEAST)
    account(tmp_path / "b", ec.generate_private_key(ec.SECP384R1())).groups("validation", TWENTY, LEAST)
    one, other = (set(json.loads(kept_files(tmp_path / name)[0].read_bytes())["groups"]) for name in "ab")
    assert len(one) == len(other) == 20 and not one & other


def test_an_account_that_was_changed_or_is_gone_is_refused_in_words(tmp_path: Path) -> None:
    account(tmp_path).groups("validation", TWENTY, LEAST)
    [file] = kept_files(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content.replace(b":1", b":2", 1))
    with pytest.raises(LedgerError, match="restore it from the back-up"):
        account(tmp_path).groups("validation", TWENTY, LEAST)
    file.unlink()
    with pytest.raises(LedgerError, match="absent or was changed"):
        account(tmp_path).groups("test", TWENTY, LEAST)
    file.write_bytes(content)
    assert account(tmp_path).groups("validation", TWENTY, LEAST) == TWENTY


def test_an_entry_that_another_key_signed_is_refused(tmp_path: Path) -> None:
    account(tmp_path, ec.generate_private_key(ec.SECP384R1())).groups("validation", TWENTY, LEAST)
    with pytest.raises(LedgerError, match="not signed with this site's key"):
        account(tmp_path).groups("validation", TWENTY, LEAST)


def test_a_kill_between_file_and_entry_leaves_the_account_as_it_was(tmp_path: Path) -> None:
    account(tmp_path).groups("validation", TWENTY, LEAST)
    [old] = kept_files(tmp_path)
    (tmp_path / f"patients-{'0' * 64}.json").write_text("{}")
    assert account(tmp_path).groups("validation", TWENTY, LEAST) == TWENTY and old.exists()
    account(tmp_path).groups("test", {f"tested-{i}": 1 for i in range(9)}, LEAST)
    assert len(kept_files(tmp_path)) == 1


def test_questions_asked_at_the_same_time_are_all_entered(tmp_path: Path) -> None:
    groups = [{f"{name}-{i}": 1 for i in range(6)} for name in "abcdefgh"]
    threads = [
        threading.Thread(target=lambda own=own, n=n: account(tmp_path).groups(f"question {n}", own, LEAST))
        for n, own in enumerate(groups)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = account(tmp_path).read()
    assert len(kept.account.groups) == 48 and len(kept.questions) == 8


def test_ten_thousand_patients_and_a_thousand_rounds_take_less_than_ten_megabytes(tmp_path: Path) -> None:
    patients = {f"subject-{i}": 1 + i % 15 for i in range(10_000)}
    parts = {part: {s: m for n, (s, m) in enumerate(patients.items()) if n % 3 == i} for i, part in enumerate("tve")}
    for _ in range(2):
        for part, own in parts.items():
            assert account(tmp_path).groups(f"{part} of study", own, LEAST) == own
    assert len(list(Ledger(tmp_path, "north", KEY).entries())) == 3
    for study in range(10):
        for part, own in parts.items():
            account(tmp_path).groups(f"{part} of study {study}", own, LEAST)
    assert len(account(tmp_path).read().questions) == MOST_QUESTIONS
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 10e6
