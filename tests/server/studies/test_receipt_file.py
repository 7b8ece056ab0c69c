"""The newest receipts of a study come back as they were, and a damaged file is not passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from permmoe.errors import ConfigurationError
from permmoe.federated.audit import LedgerHead, countersign
from permmoe_server.studies.receipt_file import load_receipts, save_receipts
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
