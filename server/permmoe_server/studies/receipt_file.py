"""The newest receipt for each site's ledger: `receipts.jsonl` in a study's folder.

Without it a restarted coordinator would have none to send, and a ledger that was put back from a copy would pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from permmoe.errors import ConfigurationError
from permmoe.federated.audit import AuditError, Receipt, parse_receipt
from permmoe.runtime.files import PUBLIC_MODE, write_file

RECEIPTS_FILE = "receipts.jsonl"


def load_receipts(out: Path) -> dict[str, Receipt]:
    """The receipts in a study's folder, by site. Raises ConfigurationError for a file that was damaged."""
    path = out / RECEIPTS_FILE
    lines = path.read_bytes().splitlines() if path.exists() else []
    try:
        receipts = [parse_receipt(line) for line in lines]
    except AuditError:
        raise ConfigurationError(f"{path} was damaged; restore it, or delete it and lose what it vouches for") from None
    return {receipt.head.site: receipt for receipt in receipts}


def newest_receipts(studies: Path) -> dict[str, Receipt]:
    """For each site the receipt for its newest entry in all studies of a federation; damaged files are passed over."""
    newest: dict[str, Receipt] = {}
    for folder in studies.glob("*/"):
        with suppress(ConfigurationError):
            for site, receipt in load_receipts(folder).items():
                if site not in newest or receipt.head.sequence > newest[site].head.sequence:
                    newest[site] = receipt
    return newest


def newest_receipt(studies: Path, site: str) -> Receipt | None:
    """The receipt for a site's newest entry, as `newest_receipts` finds it."""
    return newest_receipts(studies).get(site)


def forget_receipts(studies: Path, site: str) -> None:
    """Drop a site's receipts from all studies: with another key it begins another ledger."""
    for folder in studies.glob("*/"):
        with suppress(ConfigurationError):
            receipts = load_receipts(folder)
            if receipts.pop(site, None):
                _write(folder, receipts)


def save_receipts(out: Path, receipts: Mapping[str, Receipt]) -> None:
    """Replace the file; where no receipts are given there is none."""
    if receipts:
        _write(out, receipts)


def _write(out: Path, receipts: Mapping[str, Receipt]) -> None:
    lines = [receipts[site].line() + b"\n" for site in sorted(receipts)]
    write_file(out / RECEIPTS_FILE, b"".join(lines), mode=PUBLIC_MODE)
