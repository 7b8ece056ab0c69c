"""The release account of a site's patients on disk: in a file beside the ledger, whose SHA-256 the ledger states.

The file holds pseudonyms that follow from the site's key, and a number for each; neither says who the patients are. The
ledger may be shown to more people than the data, so it holds only the digest and a range. The account outlives studies:
patients do not change between them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter

from permmoe.federated.release_account import Labels, ReleaseAccount, combination_groups
from permmoe_client.release.ledger import Ledger, alone
from permmoe_client.release.outbox import bucket
from permmoe_client.release.stated_file import StatedFile

LOCK_FILE = ".patients.lock"
PSEUDONYM_DIGITS = 16
"""64 bits: among 10,000 patients two have the same one with a chance of less than one in a hundred billion."""
MOST_QUESTIONS = 24
"""Of which it is kept who counted in them: those of some eight studies. Older ones would be grouped anew."""
Divide = Callable[[ReleaseAccount, Mapping[str, int], int], Labels]
"""What counts of each patient, from the account, what is there of each, as bits, and the least size of a group."""


@dataclass(frozen=True)
class KeptAccount:
    """What is kept of all releases."""

    account: ReleaseAccount = field(default_factory=ReleaseAccount)
    questions: Mapping[str, Labels] = field(default_factory=dict)
    """What counted of each patient in the newest questions, so that they are answered about the same ones again."""

    def with_question(self, question: str, labels: Labels) -> KeptAccount:
        """With one more question, or with a new answer to it; the oldest question may be forgotten."""
        others = {name: own for name, own in self.questions.items() if name != question}
        newest = dict(list(others.items())[1 - MOST_QUESTIONS :])
        return KeptAccount(self.account.after(labels), {**newest, question: dict(labels)})


class PatientAccount:
    """Which patients all sums that left this site leave indistinguishable. Each call reads it anew."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._folder = ledger, ledger.path.parent
        without = "nobody knows what left about which patients"
        self._file = StatedFile(ledger, "account", "patients_sha256", "patients", without)

    def groups(
        self, question: str, observed: Mapping[str, int], least: int, divide: Divide = combination_groups
    ) -> Labels:
        """What counts of each patient in sums by combination (permmoe.federated.release_account), by subject.

        `question` names what is asked again and again, as the validation of a study: whoever counts in it is fixed the
        first time. A patient who comes later waits for the next question; where one is withdrawn, the others are
        grouped anew. All are entered as released before anything is computed of them. `observed` is by subject, and
        `divide` says what of it counts, so that the account admits the sums. Raises LedgerError where the account is
        absent or changed, or cannot be written.
        """
        key = self._ledger.secret("patients")
        subjects = {_pseudonym(key, subject): subject for subject in observed}
        present = {name: observed[subject] for name, subject in subjects.items()}
        with alone(self._folder, LOCK_FILE):
            old = self.read()
            labels = _labels(old, question, present, least, divide)
            if labels is not old.questions.get(question):
                self._keep(old, old.with_question(question, labels))
        return {subjects[name]: label for name, label in labels.items()}

    def groups_of(self, subjects: Iterable[str]) -> dict[str, int]:
        """The group of each of these patients, 0 of who was in no sum, in an order that follows from the site's key and
        tells nothing of them. Raises LedgerError where the account is absent."""
        key = self._ledger.secret("patients")
        names = {subject: _pseudonym(key, subject) for subject in subjects}
        kept = self.read().account.groups
        return {subject: kept.get(name, 0) for subject, name in sorted(names.items(), key=itemgetter(1))}

    def preview(self, question: str, observed: Mapping[str, int], least: int, divide: Divide) -> Labels:
        """What `groups` would return now; nothing is entered. Raises LedgerError where the account is absent."""
        key = self._ledger.secret("patients")
        subjects = {_pseudonym(key, subject): subject for subject in observed}
        present = {name: observed[subject] for name, subject in subjects.items()}
        labels = _labels(self.read(), question, present, least, divide)
        return {subjects[name]: label for name, label in labels.items()}

    def read(self) -> KeptAccount:
        """The account as the ledger's newest entry about it states it; empty without one. Raises LedgerError."""
        content = self._file.read()
        if content is None:
            return KeptAccount()
        kept = json.loads(content)
        return KeptAccount(ReleaseAccount(kept["groups"]), kept["questions"])

    def _keep(self, old: KeptAccount, new: KeptAccount) -> None:
        if new == old:
            return
        content = json.dumps({"groups": new.account.groups, "questions": new.questions}, separators=(",", ":")).encode()
        self._file.keep(content, {"patients": bucket(float(len(new.account.groups)))}, "nothing may leave")


def _labels(old: KeptAccount, question: str, present: Mapping[str, int], least: int, divide: Divide) -> Labels:
    """What counts of each patient: as in the earlier answer to the question, where that can be given again."""
    labels = old.questions.get(question, {})
    is_as_before = all(present.get(name, 0) & label == label for name, label in labels.items())
    if labels and is_as_before and old.account.admits(labels, least):
        return labels
    return divide(old.account, present, least)


def _pseudonym(key: bytes, subject: str) -> str:
    return hmac.new(key, subject.encode(), hashlib.sha256).hexdigest()[:PSEUDONYM_DIGITS]
