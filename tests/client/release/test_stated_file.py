"""A file that the ledger states: no other content is believed, and a failure leaves the earlier one."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from permmoe_client.release.ledger import Ledger, LedgerError
from permmoe_client.release.stated_file import StatedFile


@pytest.fixture
def stated(tmp_path: Path) -> StatedFile:
    ledger = Ledger(tmp_path, "north", ec.generate_private_key(ec.SECP384R1()))
    return StatedFile(ledger, "withdrawal", "list_sha256", "withdrawn", "nobody knows")


def only_file(stated: StatedFile) -> Path:
    [path] = stated.ledger.path.parent.glob("withdrawn-*.json")
    return path


def test_the_newest_content_is_read_and_the_earlier_file_is_gone(stated: StatedFile) -> None:
    assert stated.read() is None
    for content in (b"one", b"two"):
        stated.keep(content, {"withdrawn": "1-4"}, "nothing changed")
        assert stated.read() == content and only_file(stated).read_bytes() == content


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"twp")])
def test_a_file_that_is_gone_or_was_changed_is_refused(change: object, stated: StatedFile) -> None:
    stated.keep(b"two", {}, "nothing changed")
    change(only_file(stated))  # type: ignore[operator]
    with pytest.raises(LedgerError, match="absent or was changed, and without it nobody knows; restore it"):
        stated.read()


def test_an_older_copy_that_is_put_back_is_refused(stated: StatedFile) -> None:
    stated.keep(b"one", {}, "nothing changed")
    older, content = only_file(stated), b"one"
    stated.keep(b"two", {}, "nothing changed")
    only_file(stated).unlink()
    older.write_bytes(content)
    with pytest.raises(LedgerError, match="absent or was changed"):
        stated.read()


def test_where_the_file_cannot_be_written_the_earlier_one_counts(
    stated: StatedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated.keep(b"one", {}, "nothing changed")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("permmoe_client.release.stated_file.write_file", full)
    with pytest.raises(LedgerError, match=r"No space left on device\), so nothing changed"):
        stated.keep(b"two", {}, "nothing changed")
    assert stated.read() == b"one"
