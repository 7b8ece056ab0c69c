"""Patients who withdrew, on disk beside the ledger: a list that grows, and an entry of the ledger for each addition.

The list names patients, since they have to be recognised in the site's tables; only its owner may read it, and it never
leaves. The ledger, which others may be shown, has of it a range, the file's SHA-256, and the head of a chain of
commitments: c_i = HMAC-SHA-256(salt_i, subject_i), h_i = SHA-256(h_{i-1} ‖ c_i). Salts are 256 random bits, so a head
tells nobody who withdrew. A hospital that shows a subject, its salt and the other commitments proves later whom an
entry meant; and since each entry's head is the beginning of the next one's chain, nobody is taken off the list
unnoticed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace

from permmoe.federated.audit import AuditError, Entry, LedgerHead
from permmoe_client.release.ledger import Ledger, alone
from permmoe_client.release.outbox import bucket
from permmoe_client.release.stated_file import StatedFile

LOCK_FILE = ".withdrawn.lock"
SALT_BYTES = 32
NO_COMMITMENT = "0" * 64
"""The head of a chain without commitments."""


@dataclass(frozen=True)
class Absent:
    """Who takes part in nothing any more."""

    subjects: frozenset[str] = frozenset()
    is_everybody: bool = False
    """The hospital withdrew."""

    def __contains__(self, subject: object) -> bool:
        return self.is_everybody or subject in self.subjects


NOBODY_ABSENT = Absent()


@dataclass(frozen=True)
class Withdrawals:
    """The withdrawals of a site."""

    subjects: Mapping[str, str] = field(default_factory=dict)
    """Patient -> salt, in hexadecimal; in the order in which they withdrew."""
    beside: tuple[str, ...] = ()
    """Others who train no more, so that no withdrawn patient left the trainings alone; all else they take part in."""
    unaccompanied: tuple[str, ...] = ()
    """Withdrawn patients since whose withdrawal nothing was trained: nobody was left out beside them so far."""
    is_whole_site: bool = False
    """Whether the hospital withdrew, with all of its patients, those who are still to come among them."""

    @property
    def absent(self) -> Absent:
        """Who takes part in nothing any more."""
        return Absent(frozenset(self.subjects), self.is_whole_site)

    @property
    def head(self) -> str:
        """Of the chain of commitments; empty where nobody withdrew."""
        return self.heads()[-1] if self.subjects else ""

    def commitments(self) -> Iterator[str]:
        """To each patient, in order, in hexadecimal."""
        for subject, salt in self.subjects.items():
            yield hmac.new(bytes.fromhex(salt), subject.encode(), hashlib.sha256).hexdigest()

    def heads(self) -> list[str]:
        """The head after each commitment, beginning with the one of none."""
        heads = [NO_COMMITMENT]
        for commitment in self.commitments():
            heads.append(hashlib.sha256(bytes.fromhex(heads[-1]) + bytes.fromhex(commitment)).hexdigest())
        return heads


NOBODY_WITHDREW = Withdrawals()


@dataclass(frozen=True)
class Withdrawn:
    """What a withdrawal changed."""

    added: tuple[str, ...]
    """Patients who had not withdrawn before."""
    head: LedgerHead | None
    """Of its entry; None where nothing changed, and none was written."""


class WithdrawalList:
    """The list of one site. Each call reads it anew."""

    def __init__(self, ledger: Ledger) -> None:
        self._folder = ledger.path.parent
        self._file = StatedFile(ledger, "withdrawal", "list_sha256", "withdrawn", "nobody knows who withdrew")

    def read(self) -> Withdrawals:
        """The list as the ledger's newest entry about it states it; empty without one.

        Raises LedgerError where the list is absent or was changed: who withdrew would train again without it.
        """
        content = self._file.read()
        if content is None:
            return NOBODY_WITHDREW
        kept = json.loads(content)
        return Withdrawals(
            kept["subjects"], tuple(kept["beside"]), tuple(kept["unaccompanied"]), bool(kept["is_whole_site"])
        )

    def add(self, subjects: Iterable[str], *, is_whole_site: bool = False) -> Withdrawn:
        """Withdraw these patients, and the whole hospital where it says so; who withdrew before is not added again.

        Raises LedgerError, and then nothing has changed.
        """
        with alone(self._folder, LOCK_FILE):
            old = self.read()
            added = tuple(dict.fromkeys(subject for subject in subjects if subject not in old.subjects))
            new = replace(
                old,
                subjects={**old.subjects, **{subject: secrets.token_hex(SALT_BYTES) for subject in added}},
                unaccompanied=(*old.unaccompanied, *added),
                is_whole_site=old.is_whole_site or is_whole_site,
            )
            return Withdrawn(added, None if new == old else self._keep(new))

    def accompany(self, withdrawn: Collection[str], beside: Iterable[str]) -> Withdrawals:
        """Leave others out of trainings from now on, beside these patients who withdrew. Raises LedgerError."""
        with alone(self._folder, LOCK_FILE):
            old = self.read()
            new = replace(
                old,
                beside=tuple(dict.fromkeys((*old.beside, *beside))),
                unaccompanied=tuple(subject for subject in old.unaccompanied if subject not in withdrawn),
            )
            if new != old:
                self._keep(new)
            return new

    def verify(self, entries: Iterable[Entry]) -> None:
        """Check that all patients whom these entries ever said to have withdrawn are on the list, in their order.

        Raises LedgerError for an absent list, AuditError that names the first entry which it does not follow from.
        """
        heads, place = self.read().heads(), 0
        for entry in entries:
            if entry.kind == "withdrawal":
                try:
                    place = heads.index(str(entry.facts.get("commitments")), place)
                except ValueError:
                    raise AuditError(
                        f"entry {entry.sequence}: the list of withdrawn patients does not follow from it; somebody was "
                        "taken off the list, or exchanged"
                    ) from None

    def _keep(self, new: Withdrawals) -> LedgerHead:
        facts = {
            "commitments": new.heads()[-1],
            "withdrawn": bucket(float(len(new.subjects))),
            "left_out_beside_them": bucket(float(len(new.beside))),
            "whole_site": new.is_whole_site,
        }
        content = json.dumps(asdict(new), separators=(",", ":")).encode()
        return self._file.keep(content, facts, "nothing changed")


def read_withdrawals(ledger: Ledger | None) -> Withdrawals:
    """Who withdrew at a site with this ledger; nobody where it keeps none. Raises LedgerError."""
    return WithdrawalList(ledger).read() if ledger else NOBODY_WITHDREW
