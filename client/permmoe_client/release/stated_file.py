"""A file beside the ledger that the ledger states: its name has its SHA-256, as the newest entry of its kind has it.

So a file that was changed, lost or put back from an older copy is noticed before anything is answered by it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from permmoe.federated.audit import Kind, LedgerHead
from permmoe.runtime.files import write_file
from permmoe_client.release.ledger import Ledger, LedgerError


@dataclass(frozen=True)
class StatedFile:
    """A file that is replaced whole. Whoever replaces it holds a lock of their own."""

    ledger: Ledger
    kind: Kind
    """Of the ledger's entries about it."""
    fact: str
    """Where an entry has its SHA-256."""
    name: str
    """Before the digest, in the name of the file."""
    without: str
    """What it means that the file is gone, behind "and without it"."""

    def read(self) -> bytes | None:
        """The content that the newest entry states; None where there is no entry. Raises LedgerError."""
        entry = self.ledger.newest(self.kind)
        if entry is None:
            return None
        path = self._path(str(entry.facts.get(self.fact)))
        try:
            content = path.read_bytes()
        except OSError:
            content = b""
        if path != self._path(hashlib.sha256(content).hexdigest()):
            raise LedgerError(
                f"{path} is absent or was changed, and without it {self.without}; restore it from the back-up that "
                "the ledger is in"
            )
        return content

    def keep(self, content: bytes, facts: Mapping[str, object], failed: str) -> LedgerHead:
        """Replace the file, with an entry that also has these facts, and return the ledger's head.

        Raises LedgerError, which says `failed`, where the file cannot be written; then the earlier one counts.
        """
        digest = hashlib.sha256(content).hexdigest()
        # The file first: an entry never speaks of a file that is not there.
        try:
            write_file(self._path(digest), content, is_durable=True)
        except OSError as error:
            raise LedgerError(f"{self._folder} cannot be written to ({error.strerror}), so {failed}") from None
        head = self.ledger.append(self.kind, {self.fact: digest, **facts})
        for path in self._folder.glob(f"{self.name}-*.json"):
            if path != self._path(digest):
                path.unlink(missing_ok=True)
        return head

    @property
    def _folder(self) -> Path:
        return self.ledger.path.parent

    def _path(self, digest: str) -> Path:
        return self._folder / f"{self.name}-{digest}.json"
