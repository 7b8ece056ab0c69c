"""The newest receipts of a study come back as they were, and a damaged file is not passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from permmoe.errors import ConfigurationError
from permmoe.federated.audit import LedgerHead, Receipt, countersign
from permmoe_server.studies.receipt_file import forget_receipts, load_receipts, newest_receipt, save_receipts
from tests.client.release.test_ledger import SERVER

RECEIPTS = {
    name: countersign(
        LedgerHead(name, number, "a" * 64), SERVER.key, SERVER.certificate, SERVER.certificate_pem.decode()
    )
    for name, number in (("south", 3), ("north", 7))
}


def test_receipts_come_back(tmp_path: Path) -> None:
    save_receipts(tmp_path, RECEIPTS)
    assert load_receipts(tmp_path) == RECEIPTS


def test_a_study_without_receipts_has_no_file(tmp_path: Path) -> None:
    save_receipts(tmp_path, {})
    assert not list(tmp_path.iterdir()) and load_receipts(tmp_path) == {}


def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "receipts.jsonl").write_bytes(b"{}\n")
    with pytest.raises(ConfigurationError, match="was damaged; restore it"):
        load_receipts(tmp_path)


def receipt(site: str, number: int) -> Receipt:
    head = LedgerHead(site, number, "b" * 64)
    return countersign(head, SERVER.key, SERVER.certificate, SERVER.certificate_pem.decode())


def test_the_newest_receipt_of_a_site_is_found_over_all_studies_also_beside_a_damaged_file(tmp_path: Path) -> None:
    for study, number in (("one", 4), ("two", 9), ("three", 6)):
        (tmp_path / study).mkdir()
        save_receipts(tmp_path / study, {"north": receipt("north", number), "south": receipt("south", 1)})
    (tmp_path / "three" / "receipts.jsonl").write_bytes(b"{}\n")
    found = newest_receipt(tmp_path, "north")
    assert found and found.head.sequence == 9
    assert newest_receipt(tmp_path, "west") is None and newest_receipt(tmp_path / "absent", "north") is None


def test_receipts_of_a_site_that_gets_another_key_are_forgotten_and_no_other_ones(tmp_path: Path) -> None:
    for study in ("one", "two"):
        (tmp_path / study).mkdir()
        save_receipts(tmp_path / study, {"north": receipt("north", 4), "south": receipt("south", 1)})
    forget_receipts(tmp_path, "north")
    assert newest_receipt(tmp_path, "north") is None and newest_receipt(tmp_path, "south")
    forget_receipts(tmp_path, "south")
    assert load_receipts(tmp_path / "one") == {}
