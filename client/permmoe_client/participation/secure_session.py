"""The site's side of a secure sum between its messages: one session at a time, in memory only.

Keys and seeds are never written anywhere: a site that is restarted is out of the session that it was in, and the others
recover its masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import RecordDict
from jaxtyping import Int64

from permmoe.errors import PermmoeError
from permmoe.federated.audit import Entry, Head, Kind
from permmoe.federated.records import Instruction
from permmoe.federated.roster import read_roster, site_keys
from permmoe.federated.secure.messages import (
    read_bytes,
    read_cohort,
    read_evidence,
    read_names,
    read_opening,
    read_session_digest,
    read_threshold,
    write_advertisement,
    write_bytes,
    write_count_shares,
    write_masked,
    write_masks,
)
from permmoe.federated.secure.secure_sum import Blocks, Rules, SecureSumRefused, Session, SiteKeys, SiteSum
from permmoe_client.connection.identity import check_roster, load_certificate, load_key
from permmoe_client.release.ledger import Ledger
from permmoe_client.site import SiteConfig

Numbers = Mapping[str, Int64[np.ndarray, " _"]]
Enter = Callable[[int], Head]
"""Writes the ledger's entry for an input of so many bytes, before it leaves."""


class AlreadyAnswered(PermmoeError):
    """A round that this site has given its input to: two sums that differ by one site would give that site away."""


@dataclass
class Open:
    """A session that this site is in, and what it will add to the sum."""

    sum: SiteSum
    blocks: Blocks
    numbers: Numbers
    enter: Enter


_OPEN: dict[str, Open] = {}
"""By the folder of a site's ledger: in a simulation one process plays many sites."""


@dataclass(frozen=True)
class Ground:
    """What a session stands on, all of it checked."""

    session: Session
    roster: SiteKeys
    roster_serial: int
    rules: Rules


def check_ground(
    asked: Instruction, content: RecordDict, site: SiteConfig, ledger: Ledger | None, kind: Kind
) -> Ground:
    """Whether this site may take part in a session, before any work is done for it.

    Raises SecureSumRefused, AlreadyAnswered, RosterError, MalformedRecord.
    """
    if site.coordinator is None or ledger is None:
        raise SecureSumRefused("a secure study needs the site's key, roster and ledger; connect it with a kit")
    federation, policy, opened = asked.plan.federation, site.release, read_opening(content)
    # "t is at least the site's own share": a plan that asks for less is not what this site allows.
    if federation.secure_threshold < policy.min_secure_threshold:
        raise SecureSumRefused(
            f"the study's secure_threshold, {federation.secure_threshold:.2f}, is under this site's "
            f"release.min_secure_threshold, {policy.min_secure_threshold:.2f}"
        )
    purpose = "training" if kind == "training" else asked.part
    entries = list(ledger.entries())
    # "A site gives its input to a round once", and never to one before it.
    if any(_is_spent(entry, kind, asked, purpose) for entry in entries):
        raise AlreadyAnswered(f"this site has given its input to round {asked.round} of study {asked.plan.digest()}")
    # "A roster is never older than one that was seen": it would bring removed sites back.
    newest = max((int(entry.facts.get("roster", 1)) for entry in entries), default=1)
    own = check_roster(site.coordinator, site.name)
    authority = load_certificate(site.coordinator.authority)
    roster = read_roster(opened.roster, authority, minimum_serial=max(own.serial, newest))
    session = Session(asked.plan.digest(), purpose, asked.round, asked.model_digest, opened.nonce)
    rules = Rules(
        federation.secure_threshold,
        max(policy.min_cohort, federation.min_sites),
        max(policy.min_holders, federation.min_holders),
    )
    return Ground(session, site_keys(roster), roster.serial, rules)


def begin(site: SiteConfig, ground: Ground, blocks: Blocks, numbers: Numbers, enter: Enter) -> RecordDict:
    """Stage 1, after the work: keep what will be added, and advertise. An earlier session of this site ends here."""
    assert site.coordinator
    key = load_key(site.coordinator.key)
    sum_ = SiteSum(ground.session, site.name, key, ground.roster, ground.rules, blocks)
    _OPEN[_place(site)] = Open(sum_, blocks, numbers, enter)
    return write_advertisement(sum_.advertise())


def share(content: RecordDict, site: SiteConfig) -> RecordDict:
    """Stage 2."""
    sealed = _opened(content, site).sum.share(read_cohort(content), read_threshold(content))
    return RecordDict({"sealed": write_bytes(sealed)})


def mask(content: RecordDict, site: SiteConfig) -> RecordDict:
    """Stage 3: the only one in which something of the site's data leaves, masked; its entry is written first."""
    opened = _opened(content, site)
    masked = opened.sum.mask(read_bytes(content, "sealed"), opened.numbers)
    opened.numbers = {}
    return write_masked(masked, opened.enter(masked.numbers.nbytes + masked.bits.nbytes))


def count(content: RecordDict, site: SiteConfig) -> RecordDict:
    """Stage 4."""
    return write_count_shares(_opened(content, site).sum.count(read_names(content, "arrived")))


def open_blocks(content: RecordDict, site: SiteConfig) -> RecordDict:
    """Stage 5."""
    opened = _opened(content, site)
    evidence = read_evidence(content, len(opened.blocks))
    return write_masks(opened.sum.open(evidence, read_names(content, "silent")))


def _opened(content: RecordDict, site: SiteConfig) -> Open:
    opened = _OPEN.get(_place(site))
    # "A message of another session is not answered", whether it is an old one replayed or one from before a restart.
    if opened is None or read_session_digest(content) != opened.sum.session.digest().hex():
        raise SecureSumRefused("this site is in no such session; it was restarted, or another session has begun")
    return opened


def _place(site: SiteConfig) -> str:
    return f"{site.ledger}\0{site.name}"


def _is_spent(entry: Entry, kind: Kind, asked: Instruction, purpose: str) -> bool:
    facts = entry.facts
    if entry.kind != kind or facts.get("study") != asked.plan.digest():
        return False
    done = int(facts.get("round", 0))
    return done > asked.round or (done == asked.round and facts.get("purpose") == purpose)
