"""The site's ledger on disk: `ledger.jsonl`, only ever appended to, and the coordinator's receipts beside it."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from permmoe.errors import PermmoeError
from permmoe.federated.audit import (
    AuditError,
    Entry,
    Kind,
    LedgerHead,
    Receipt,
    check_receipts,
    is_signed,
    next_entry,
    parse_entry,
    read_chain,
    read_receipt,
)
from permmoe.federated.model_chain import ChainHead
from permmoe.runtime.files import append_line, write_file
from permmoe_client.release.announced_models import AnnouncedModels, chains_of, head_in

LEDGER_FILE, RECEIPTS_FILE, LOCK_FILE = "ledger.jsonl", "receipts.jsonl", ".lock"
TAIL_BYTES = 1 << 20
"""No entry is longer, so the last one lies within this many bytes of the end."""
BLOCK_BYTES = 1 << 18
"""Read at a time from the end."""


class LedgerError(PermmoeError):
    """The ledger cannot be written or believed; nothing leaves without an entry."""


@dataclass(frozen=True)
class Verified:
    """What a check of the whole ledger found."""

    entries: tuple[Entry, ...]
    receipted: int
    """Entries up to this one cannot have been cut off unnoticed."""
    chains: Mapping[str, AnnouncedModels]
    """For each study the models that its coordinator announced."""
    torn_bytes: int = 0
    """Behind the last whole line stand so many bytes of an entry that was begun: nothing left with it."""


class Ledger:
    """One site's ledger. Each call opens the files anew, so processes may share it."""

    def __init__(
        self,
        folder: Path,
        site: str,
        key: ec.EllipticCurvePrivateKey,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folder, self._site, self._key, self._now = folder, site, key, now

    @property
    def path(self) -> Path:
        """The entries, one a line."""
        return self._folder / LEDGER_FILE

    def append(self, kind: Kind, facts: Mapping[str, Any]) -> LedgerHead:
        """Add an entry and return its head, once it is on disk. Raises LedgerError, and then the ledger is as before.

        A last line that a kill cut short is moved to a file of its own first.
        """
        with alone(self._folder, LOCK_FILE):
            last = self._last()
            entry = next_entry(last, kind, facts, self._now().isoformat(timespec="seconds"), self._key)
            _append(self.path, entry.line())
        return LedgerHead(self._site, entry.sequence, entry.digest())

    def entries(self) -> Iterator[Entry]:
        """All entries, newest last, as they stand there."""
        for line in _lines(self.path):
            yield parse_entry(line)

    def decisions(self) -> list[Entry]:
        """Approvals and revocations that this site's key signed, oldest first."""
        # Cheap to find without parsing what the others say.
        lines = (line for line in _lines(self.path) if b'"kind":"approval"' in line or b'"kind":"revocation"' in line)
        found = []
        for line in lines:
            try:
                entry = parse_entry(line)
            except AuditError:
                continue
            if entry.kind in ("approval", "revocation") and is_signed(entry, self._key.public_key()):
                found.append(entry)
        return found

    def newest(self, kind: Kind) -> Entry | None:
        """The newest entry of a kind that this site's key signed. Raises LedgerError for one that it did not sign."""
        marked = f'"kind":"{kind}"'.encode()
        for line in _backwards(self.path):
            if marked in line and (entry := parse_entry(line)).kind == kind:
                if not is_signed(entry, self._key.public_key()):
                    raise LedgerError(f"entry {entry.sequence} of {self.path} is not signed with this site's key")
                return entry
        return None

    def of_study(self, study: str) -> Iterator[Entry]:
        """The entries about a study, given by its digest, newest first; read only as far as they are wanted."""
        marked = study.encode()
        entries = (parse_entry(line) for line in _backwards(self.path) if marked in line)
        return (entry for entry in entries if entry.facts.get("study") == study)

    def secret(self, purpose: str) -> bytes:
        """32 bytes that nobody but this site can compute, the same each time; they follow from its key."""
        value = self._key.private_numbers().private_value.to_bytes(48)
        return HKDF(hashes.SHA256(), 32, None, f"permmoe {purpose}".encode()).derive(value)

    def bytes_since(self, period: timedelta) -> int:
        """What left in the time up to now, bytes."""
        start = self._now() - period
        total = 0
        for line in _backwards(self.path):
            entry = parse_entry(line)
            if datetime.fromisoformat(entry.time) < start:
                break
            total += int(entry.facts.get("bytes", 0))
        return total

    def newest_head(self, study: str) -> ChainHead | None:
        """The newest head of a study's chain of models that an entry has; None without one. Raises LedgerError."""
        try:
            heads = (head_in(entry) for entry in self.of_study(study))
            return next((signed.head for signed in heads if signed), None)
        except AuditError as error:
            raise LedgerError(f"an entry of {self.path}: {error}; run permmoe-client ledger verify") from None

    def keep_receipt(self, line: bytes, authority: x509.Certificate) -> None:
        """Keep a receipt of the coordinator's. Raises AuditError for one that is not for this ledger.

        Raises LedgerError where the ledger lacks the entry that the receipt is for: then it is not the newest. That it
        has more entries than the coordinator was told of is usual, since a reply may be lost.
        """
        receipt = self._read_receipt(line, authority)
        with alone(self._folder, LOCK_FILE):
            if receipt.line() not in _lines(self._folder / RECEIPTS_FILE):
                _append(self._folder / RECEIPTS_FILE, receipt.line())
        self._require_entry(receipt.head)

    def hold_against(self, line: bytes, authority: x509.Certificate) -> None:
        """Check that the entry of a receipt is there; errors as of `keep_receipt`. Nothing is written."""
        self._require_entry(self._read_receipt(line, authority).head)

    def _read_receipt(self, line: bytes, authority: x509.Certificate) -> Receipt:
        receipt = read_receipt(line, authority)
        if receipt.head.site != self._site:
            raise AuditError("a receipt is for another site")
        return receipt

    def _require_entry(self, head: LedgerHead) -> None:
        """Raise LedgerError unless this entry is in the ledger."""
        lines = list(islice(_backwards(self.path), 1))
        try:
            end = parse_entry(lines[0]).sequence if lines else 0
        except AuditError:
            raise LedgerError("the ledger's last entry is damaged; run permmoe-client ledger verify") from None
        # "A ledger put back from a copy does not start afresh": what has left since is in the coordinator's hands.
        if end < head.sequence:
            raise LedgerError(
                f"the ledger ends at entry {end}, but the coordinator has a receipt for entry {head.sequence}: "
                "it was removed, or put back from a copy; restore the newest, nothing was sent"
            )
        line = next(islice(_backwards(self.path), end - head.sequence, None), b"")
        if hashlib.sha256(line).hexdigest() != head.digest:
            raise LedgerError(
                f"entry {head.sequence} of the ledger is not the one that the coordinator has a receipt for: the "
                "ledger was put back from a copy and went on; restore the newest, nothing was sent"
            )

    def verify(self, authority: x509.Certificate | None) -> Verified:
        """Check every entry with the models that it names, and every signature of the coordinator where the authority
        is known. Raises AuditError."""
        lines, torn = _lines_and_rest(self.path)
        entries = read_chain(lines, self._key.public_key())
        chains = chains_of(entries, authority)
        if authority is None:
            return Verified(entries, 0, chains, len(torn))
        receipts = [read_receipt(line, authority) for line in _lines(self._folder / RECEIPTS_FILE)]
        # "A torn line is told apart from a cut one": an entry with a receipt was whole once.
        return Verified(entries, check_receipts(entries, receipts), chains, len(torn))

    def state_in_words(self) -> str:
        """How many entries there are and how old the newest is, for the log at each start; nothing is verified."""
        if not self.path.exists():
            return (
                "there is no ledger yet, and the first entry begins one; if this site took part before, its ledger was "
                "removed: stop, and restore the newest back-up"
            )
        try:
            last = next(map(parse_entry, _backwards(self.path)), None)
        except AuditError:
            return "the ledger's last entry is damaged: run permmoe-client ledger verify"
        if last is None:
            return "the ledger has no entry yet"
        return f"the ledger has {last.sequence} entries, the newest of {last.time}"

    def _last(self) -> Entry | None:
        """The newest entry; a torn line after it is put aside."""
        if not self.path.exists():
            return None
        with self.path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read()
            whole, newline, torn = tail.rpartition(b"\n")
            if torn:
                aside = self._folder / f"torn-{self._now():%Y%m%dT%H%M%S}.txt"
                write_file(aside, torn)
                file.truncate(size - len(torn))
                os.fsync(file.fileno())
        if not newline:
            return None
        try:
            return parse_entry(whole.rpartition(b"\n")[2])
        except AuditError as error:
            raise LedgerError(
                f"the last line of {self.path} is {error}; run permmoe-client ledger verify and restore the file from "
                "a back-up"
            ) from None


@contextmanager
def alone(folder: Path, lock: str) -> Iterator[None]:
    """Hold a lock file of the ledger's folder, which is made where it is missing. Raises LedgerError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder / lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LedgerError(f"{folder} cannot be written to ({error.strerror}); mend it or name another") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _append(path: Path, line: bytes) -> None:
    """Add a line; on failure the file is as it was."""
    try:
        append_line(path, line)
    except OSError as error:
        raise LedgerError(
            f"{path} cannot be written to ({error.strerror}), so nothing may leave; make room, then start again"
        ) from None


def _backwards(path: Path) -> Iterator[bytes]:
    """Whole lines, newest first, read from the end and only as far as they are wanted; a torn last one is not there."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        place, rest, is_last = file.seek(0, os.SEEK_END), b"", True
        while place:
            size = min(BLOCK_BYTES, place)
            place -= size
            file.seek(place)
            rest, *lines = (file.read(size) + rest).split(b"\n")
            if is_last and lines:
                # What stands behind the last line's end.
                lines.pop()
                is_last = False
            yield from reversed(lines)
        if not is_last:
            yield rest


def _lines(path: Path) -> list[bytes]:
    """Whole lines; a torn last one is not there."""
    return _lines_and_rest(path)[0]


def _lines_and_rest(path: Path) -> tuple[list[bytes], bytes]:
    """Whole lines, and what stands behind the last one's end."""
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], b""
    return lines, rest
