"""The record of what left: what an edit, a deletion, a reordering, a truncation, a kill and a full disk do to it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ec

from permmoe.evaluation.combinations import ErrorSums
from permmoe.federated.audit import AuditError, LedgerHead, countersign, read_receipt
from permmoe.federated.instructions import Instruction
from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import EvaluationReply, TrainReply, read_train_reply
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe_client.release.ledger import Ledger, LedgerError
from permmoe_client.release.outbox import NotReleased, bucket, send_evaluation, send_training
from permmoe_client.site import ReleasePolicy
from permmoe_server.provisioning.authority import Identity, issue_server, issue_site, new_authority
from tests.support.tiny_federation import tiny_plan

KEY = ec.generate_private_key(ec.SECP384R1())
NOW = datetime(2026, 3, 5, 7, 11, tzinfo=UTC)
AUTHORITY = new_authority("Tiny", NOW)
SERVER = issue_server(AUTHORITY, "127.0.0.1", NOW, days=90)


class StoppedClock:
    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> datetime:
        return self.time


def ledger_of(folder: Path, clock: Callable[[], datetime] = lambda: NOW) -> Ledger:
    return Ledger(folder, "north", KEY, clock)


def written(folder: Path, count: int = 5) -> Ledger:
    ledger = ledger_of(folder)
    for number in range(count):
        ledger.append("training", {"round": number, "bytes": 100 + number})
    return ledger


def receipt(head: LedgerHead, server: Identity = SERVER) -> bytes:
    return countersign(head, server.key, server.certificate, server.certificate_pem.decode()).line()


def test_an_untouched_ledger_verifies_and_says_what_it_was_told(tmp_path: Path) -> None:
    found = written(tmp_path).verify(AUTHORITY.certificate)
    assert [(e.sequence, e.facts["round"]) for e in found.entries] == [(n + 1, n) for n in range(5)]
    assert found.receipted == 0
    assert (tmp_path / "ledger.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("block", [1, 7, 300, 1 << 20])
@pytest.mark.parametrize("torn", [b"", b"{", b'{"kind":"account"' * 40])
def test_entries_read_from_the_end_are_those_read_from_the_start(
    tmp_path: Path, block: int, torn: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("permmoe_client.release.ledger.BLOCK_BYTES", block)
    ledger = ledger_of(tmp_path)
    assert list(ledger.of_study("digest")) == [] and ledger.newest("account") is None
    for number in range(5):
        ledger.append("training", {"study": "digest" if number % 2 else "other", "note": "digest", "round": number})
    ledger.append("account", {"study": "digest-of-another"})
    with ledger.path.open("ab") as file:
        file.write(torn)
    entries = list(ledger.entries())
    assert list(ledger.of_study("digest")) == [entries[3], entries[1]]
    assert ledger.newest("account") == entries[5] and ledger.newest("approval") is None
    assert ledger.bytes_since(timedelta(days=1)) == 0


def change(lines: list[bytes], at: int, old: bytes, new: bytes) -> list[bytes]:
    assert old in lines[at]
    return [*lines[:at], lines[at].replace(old, new), *lines[at + 1 :]]


TAMPERING: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "an edited fact": (lambda lines: change(lines, 2, b'"bytes":102', b'"bytes":1'), "line 3 is not signed"),
    "added white space": (lambda lines: change(lines, 2, b'"bytes":102', b'"bytes": 102'), "line 3 was edited"),
    "another kind": (lambda lines: change(lines, 1, b"training", b"approval"), "line 2 is not signed"),
    "a deletion in the middle": (lambda lines: lines[:2] + lines[3:], "line 3 is entry 4"),
    "a deletion at the start": (lambda lines: lines[1:], "line 1 is entry 2"),
    "a reordering": (lambda lines: [lines[1], lines[0], *lines[2:]], "line 1 is entry 2"),
    "a repetition": (lambda lines: [*lines[:3], lines[2], *lines[3:]], "line 4 is entry 3"),
    "garbage": (lambda lines: [*lines[:3], b"\xff{}", *lines[3:]], "line 4 was edited or damaged"),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_tampering_is_found_and_its_first_line_named(what: str, tmp_path: Path) -> None:
    ledger = written(tmp_path)
    tamper, message = TAMPERING[what]
    lines = ledger.path.read_bytes().splitlines()
    ledger.path.write_bytes(b"\n".join(tamper(lines)) + b"\n")
    with pytest.raises(AuditError, match=message):
        ledger.verify(None)


def test_an_entry_replaced_with_a_new_signature_breaks_the_chain_after_it(tmp_path: Path) -> None:
    ledger, forged = written(tmp_path / "true"), written(tmp_path / "forged", 2)
    forged.append("training", {"round": 2, "bytes": 1})
    lines = ledger.path.read_bytes().splitlines()
    other = forged.path.read_bytes().splitlines()
    ledger.path.write_bytes(b"\n".join([*other, *lines[3:]]) + b"\n")
    with pytest.raises(AuditError, match="line 4 does not follow"):
        ledger.verify(None)


def test_the_ledger_of_another_site_is_not_this_ones(tmp_path: Path) -> None:
    written(tmp_path)
    other = Ledger(tmp_path, "north", ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(AuditError, match="not signed with this site's key"):
        other.verify(None)


def test_a_truncation_is_found_by_a_receipt_and_by_nothing_else(tmp_path: Path) -> None:
    ledger = written(tmp_path)
    ledger.keep_receipt(receipt(ledger.append("evaluation", {"bytes": 7})), AUTHORITY.certificate)
    assert ledger.verify(AUTHORITY.certificate).receipted == 6
    lines = ledger.path.read_bytes().splitlines()
    ledger.path.write_bytes(b"\n".join(lines[:4]) + b"\n")
    assert len(ledger.verify(None).entries) == 4
    with pytest.raises(AuditError, match="ends at entry 4, but entry 6 has a receipt"):
        ledger.verify(AUTHORITY.certificate)
    ledger.append("evaluation", {"bytes": 8})
    ledger.append("evaluation", {"bytes": 9})
    with pytest.raises(AuditError, match="entry 6 is not the one that its receipt is for"):
        ledger.verify(AUTHORITY.certificate)


def test_a_receipt_counts_only_from_a_server_of_this_federation_for_this_site(tmp_path: Path) -> None:
    ledger = written(tmp_path)
    head = ledger.append("evaluation", {"bytes": 7})
    stranger = new_authority("Tiny", NOW)
    foreign = receipt(head, issue_server(stranger, "127.0.0.1", NOW, days=90))
    key = ec.generate_private_key(ec.SECP384R1())
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    site = issue_site(AUTHORITY, "south", public, NOW)
    by_a_site = receipt(head, Identity(key, x509.load_pem_x509_certificate(site)))
    edited = receipt(head).replace(b'"sequence":6', b'"sequence":5')
    for line in (foreign, by_a_site, edited, b"{}", receipt(replace(head, site="south"))):
        with pytest.raises(AuditError):
            ledger.keep_receipt(line, AUTHORITY.certificate)
    assert read_receipt(receipt(head), AUTHORITY.certificate).head == head


def edits_of(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Every kind of edit of a file of lines, everywhere."""
    lines = content.splitlines(keepends=True)
    yield "the file emptied", b""
    for n, line in enumerate(lines):
        yield f"line {n + 1} removed", b"".join(lines[:n] + lines[n + 1 :])
        yield f"line {n + 1} repeated", b"".join([*lines[: n + 1], *lines[n:]])
        yield f"line {n + 1} moved to the end", b"".join([*lines[:n], *lines[n + 1 :], line])
        yield f"an empty line after line {n + 1}", b"".join([*lines[: n + 1], b"\n", *lines[n + 1 :]])
        yield f"all behind line {n + 1} cut off", b"".join(lines[: n + 1])
        yield f"cut in the middle of line {n + 1}", b"".join([*lines[:n], line[: len(line) // 2]])
        start = sum(map(len, lines[:n]))
        for place in range(start, start + len(line), max(1, len(line) // 7)):
            yield f"byte {place} changed", content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
            yield f"byte {place} removed", content[:place] + content[place + 1 :]
            yield f"a byte added at {place}", content[:place] + b"0" + content[place:]
    yield "the last line's end removed", content[:-1]
    yield "garbage behind the end", content + b"garbage"
    yield "an entry begun", content + b'{"facts":{'
    yield "another entry begun and ended", content + lines[0]


def test_attack_no_edit_of_a_ledger_passes_without_a_word(tmp_path: Path) -> None:
    ledger = written(tmp_path)
    ledger.keep_receipt(receipt(ledger.append("evaluation", {"bytes": 7})), AUTHORITY.certificate)
    content = ledger.path.read_bytes()
    passed, n_edits = [], 0
    for what, edited in edits_of(content):
        if edited == content:
            continue
        n_edits += 1
        ledger.path.write_bytes(edited)
        with suppress(AuditError):
            found = ledger.verify(AUTHORITY.certificate)
            if not found.torn_bytes:
                passed.append(what)
    assert n_edits > 150 and passed == []


def test_a_torn_line_is_told_apart_from_a_cut_one(tmp_path: Path) -> None:
    ledger = written(tmp_path)
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole + b'{"facts":{"by')
    assert ledger.verify(AUTHORITY.certificate).torn_bytes == 13
    ledger.path.write_bytes(whole)
    ledger.keep_receipt(receipt(ledger.append("evaluation", {"bytes": 7})), AUTHORITY.certificate)
    ledger.path.write_bytes(ledger.path.read_bytes()[:-20])
    with pytest.raises(AuditError, match="was cut"):
        ledger.verify(AUTHORITY.certificate)


def test_a_ledger_whose_folder_was_removed_is_said_to_be_absent(tmp_path: Path) -> None:
    ledger = written(tmp_path / "ledger")
    assert ledger.state_in_words().startswith("the ledger has 5 entries, the newest of 20")
    shutil.rmtree(tmp_path / "ledger")
    assert "there is no ledger" in ledger.state_in_words() and "back-up" in ledger.state_in_words()


def test_a_kill_in_the_middle_of_an_entry_costs_that_entry_and_nothing_else(tmp_path: Path) -> None:
    ledger = written(tmp_path)
    with ledger.path.open("ab") as file:
        file.write(b'{"facts":{"by')
    assert len(ledger.verify(None).entries) == 5
    assert ledger.append("training", {"bytes": 1}).sequence == 6
    assert len(ledger.verify(None).entries) == 6
    assert [path.read_bytes() for path in tmp_path.glob("torn-*")] == [b'{"facts":{"by']


APPENDING = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from permmoe_client.release.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), "north", load_pem_private_key(Path(sys.argv[2]).read_bytes(), None))
if len(sys.argv) > 4:
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
for number in range(int(sys.argv[3])):
    print(ledger.append("training", {"bytes": number}).sequence, flush=True)
"""


def appending(folder: Path, count: int, *limit: int) -> subprocess.Popen[str]:
    key = folder / "key.pem"
    key.write_bytes(Identity(KEY, AUTHORITY.certificate).key_pem)
    command = [sys.executable, "-c", APPENDING, str(folder), str(key), str(count), *map(str, limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_append_to_one_chain(tmp_path: Path) -> None:
    both = [appending(tmp_path, 37) for _ in range(2)]
    numbers = [int(line) for process in both for line in process.communicate()[0].split()]
    assert sorted(numbers) == list(range(1, 75))
    assert len(ledger_of(tmp_path).verify(None).entries) == 74


def test_what_was_acknowledged_before_a_kill_is_in_the_ledger(tmp_path: Path) -> None:
    process = appending(tmp_path, 10_000)
    assert process.stdout
    acknowledged = [int(process.stdout.readline()) for _ in range(23)][-1]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    ledger = ledger_of(tmp_path)
    assert len(ledger.verify(None).entries) >= acknowledged == 23
    ledger.append("training", {"bytes": 1})
    ledger.verify(None)


def test_a_full_disk_is_an_error_that_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    process = appending(tmp_path, 100, 5_000)
    said, error = process.communicate()
    assert process.returncode and "LedgerError" in error and "nothing may leave" in error
    assert len(ledger_of(tmp_path).verify(None).entries) == len(said.split()) > 5


def asked(plan: RoundPlan) -> Instruction:
    return Instruction(plan, 7, "d" * 64)


def reply(**support: float) -> TrainReply:
    from tests.permmoe.federated.test_records import LAYOUT

    supports = support or {"head": 23.0, "trunk": 23.0}
    updates = {name.replace("__", "/"): ModuleUpdate(torch.ones(LAYOUT.size(name.replace("__", "/"))), n)
               for name, n in supports.items()}  # fmt: skip
    return TrainReply("north", 7, "d" * 64, updates, TrainingFigures(23.0, 11.5, 1.25, 0.5))


def test_nothing_leaves_that_the_policy_does_not_name(tmp_path: Path) -> None:
    from tests.permmoe.federated.test_records import LAYOUT

    full = reply(head=23.0, trunk=23.0, expert__2=3.5)
    ledger = ledger_of(tmp_path)
    sent = send_training(full, asked(tiny_plan()), ReleasePolicy(modules=("head", "expert/*")), ledger)
    got = read_train_reply(sent, LAYOUT)
    assert set(got.updates) == {"head", "expert/2"}
    [entry] = ledger.entries()
    assert set(entry.facts["modules"]) == {"head", "expert/2"} and got.head == LedgerHead("north", 1, entry.digest())


def test_an_entry_says_which_and_how_much_but_no_value_and_no_exact_support(tmp_path: Path) -> None:
    ledger, plan = ledger_of(tmp_path), tiny_plan()
    send_training(reply(), asked(plan), ReleasePolicy(), ledger)
    sums = {"clinical": ErrorSums(11, 7.5, 5.25, -3.0, 13.0)}
    send_evaluation(EvaluationReply("north", 7, "d" * 64, sums), asked(plan), ReleasePolicy(), ledger)
    training, evaluation = (entry.facts for entry in ledger.entries())
    assert training["study"] == plan.digest() and training["round"] == 7
    assert training["modules"]["head"]["support"] == training["visits"] == "20-49"
    assert evaluation["combinations"] == {"clinical": "10-19"}
    assert b"23.0" not in ledger.path.read_bytes() and b"7.5" not in ledger.path.read_bytes()


def test_the_daily_limit_counts_the_last_24_hours(tmp_path: Path) -> None:
    clock = StoppedClock()
    ledger, plan = ledger_of(tmp_path, clock), tiny_plan()
    send_training(reply(), asked(plan), ReleasePolicy(), ledger)
    [entry] = ledger.entries()
    policy = ReleasePolicy(daily_bytes=2 * entry.facts["bytes"] - 1)
    with pytest.raises(NotReleased, match="daily_bytes"):
        send_training(reply(), asked(plan), policy, ledger)
    assert len(list(ledger.entries())) == 1
    clock.time += timedelta(hours=25)
    send_training(reply(), asked(plan), policy, ledger)
    assert len(list(ledger.entries())) == 2


@pytest.mark.parametrize("support", [float("nan"), float("inf")])
def test_what_is_not_a_number_does_not_leave(support: float, tmp_path: Path) -> None:
    with pytest.raises(NotReleased, match="not a number"):
        send_training(reply(head=support), asked(tiny_plan()), ReleasePolicy(), ledger_of(tmp_path))
    assert not (tmp_path / "ledger.jsonl").exists()


def test_without_room_for_the_entry_nothing_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(LedgerError, match="nothing may leave"):
        send_training(reply(), asked(tiny_plan()), ReleasePolicy(), ledger_of(tmp_path))


@pytest.mark.parametrize(
    ("count", "words"), [(0.5, "under 1"), (1, "1-4"), (19, "10-19"), (20, "20-49"), (1e6, "10000 or more")]
)
def test_counts_are_told_as_ranges(count: float, words: str) -> None:
    assert bucket(float(count)) == words


def test_attack_a_ledger_put_back_from_a_copy_is_found_by_the_receipt_that_comes_next(tmp_path: Path) -> None:
    ledger = written(tmp_path)
    copy = ledger.path.read_bytes()
    heads = [ledger.append("evaluation", {"bytes": n}) for n in range(4)]
    ledger.keep_receipt(receipt(heads[2]), AUTHORITY.certificate)
    ledger.path.write_bytes(copy)
    with pytest.raises(
        LedgerError, match="ends at entry 5, but the coordinator has a receipt for entry 9: it was removed, or put"
    ):
        ledger.keep_receipt(receipt(heads[3]), AUTHORITY.certificate)
    for number in range(4):
        ledger.append("evaluation", {"bytes": 70 + number})
    with pytest.raises(LedgerError, match="entry 9 of the ledger is not the one that the coordinator has a receipt"):
        ledger.keep_receipt(receipt(heads[3]), AUTHORITY.certificate)
    with pytest.raises(AuditError, match="was rewritten"):
        ledger.verify(AUTHORITY.certificate)


def test_attack_a_ledger_that_was_deleted_is_found_by_the_receipt_that_comes_next(tmp_path: Path) -> None:
    ledger = written(tmp_path)
    head = ledger.append("evaluation", {"bytes": 7})
    shutil.rmtree(tmp_path)
    with pytest.raises(LedgerError, match="ends at entry 0, but the coordinator has a receipt for entry 6"):
        ledger.keep_receipt(receipt(head), AUTHORITY.certificate)


def test_a_ledger_may_be_ahead_of_its_newest_receipt(tmp_path: Path) -> None:
    ledger = written(tmp_path)
    head = ledger.append("evaluation", {"bytes": 7})
    ledger.append("evaluation", {"bytes": 8})
    ledger.keep_receipt(receipt(head), AUTHORITY.certificate)
    assert ledger.verify(AUTHORITY.certificate).receipted == 6


def test_a_receipt_of_which_the_parts_are_absurd_is_damaged() -> None:
    for line in (b"[]", b"{}", b"[" * 100_000, b'{"site":"north","sequence":Infinity,"digest":"0"}'):
        with pytest.raises(AuditError, match="damaged"):
            read_receipt(line, AUTHORITY.certificate)
