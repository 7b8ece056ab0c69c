"""Default deny: a study trains here only if this site approved exactly that study, to the last byte.

A study is its plan's canonical text, and an approval is of the SHA-256 of it: in `approved_studies` of site.yaml, or as
a signed entry of the ledger that `permmoe-client approve` made. A revocation in the ledger overrules earlier approvals
there; what site.yaml lists is approved for as long as it is listed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from permmoe.errors import PermmoeError
from permmoe.federated.audit import Entry
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.files import write_file

PENDING_FOLDER = "pending"
MOST_PENDING = 20
"""A coordinator cannot fill the disk with studies."""


class StudyNotApproved(PermmoeError):
    """A study that this site has not approved."""


def is_approved(digest: str, listed: Collection[str], decisions: Iterable[Entry]) -> bool:
    """Whether a study of this digest may train. `decisions`: of the ledger, oldest first."""
    if digest in listed:
        return True
    about_it = [entry.kind for entry in decisions if entry.facts.get("study") == digest]
    return bool(about_it) and about_it[-1] == "approval"


def require_approval(plan: RoundPlan, listed: Collection[str], decisions: Iterable[Entry]) -> None:
    """Raises StudyNotApproved unless the study is approved."""
    digest = plan.digest()
    if not is_approved(digest, listed, decisions):
        raise StudyNotApproved(
            f"study {digest} is not approved here, so nothing was trained; see it in words, and approve it, with "
            "permmoe-client approve"
        )


def remember_pending(ledger: Path, plan: RoundPlan) -> bool:
    """Keep a study that was refused, so that it can be shown and approved without anybody mailing a file.

    Returns whether it was not kept before and is now.
    """
    folder = ledger / PENDING_FOLDER
    path = folder / f"{plan.digest()}.json"
    if path.exists() or (folder.is_dir() and len(list(folder.iterdir())) >= MOST_PENDING):
        return False
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(path, plan.canonical_json())
    return True


def pending_studies(ledger: Path) -> tuple[RoundPlan, ...]:
    """Studies that were refused, newest last; a damaged one, or one of another version, is passed over."""
    files = sorted((ledger / PENDING_FOLDER).glob("*.json"), key=lambda path: path.stat().st_mtime)
    plans = []
    for file in files:
        with suppress(ValueError):
            plans.append(RoundPlan.model_validate_json(file.read_bytes()))
    return tuple(plans)


@dataclass(frozen=True)
class ApprovedStudy:
    """A study as the ledger's entry of its approval holds it."""

    plan: RoundPlan
    time: str
    """Of the approval, UTC, ISO 8601."""


def approved_studies(decisions: Iterable[Entry]) -> tuple[ApprovedStudy, ...]:
    """Every study whose approval holds its plan, in the order of `decisions`, also one that was revoked later.

    Plans that this version cannot read, since they are another version's, are passed over.
    """
    found = []
    for entry in decisions:
        with suppress(ValueError):
            if entry.kind == "approval" and "plan" in entry.facts:
                found.append(ApprovedStudy(RoundPlan.model_validate(entry.facts["plan"]), entry.time))
    return tuple(found)


def forget_pending(ledger: Path, digest: str) -> None:
    """A study that was decided about."""
    (ledger / PENDING_FOLDER / f"{digest}.json").unlink(missing_ok=True)
