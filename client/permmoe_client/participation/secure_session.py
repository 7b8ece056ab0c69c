"""The site's part in a secure sum between its messages: one session at a time, in memory only.

Keys and seeds are never written anywhere: a restarted site is out of the session that it was in, and the other
participants recover its masks. A site whose connection is lost is still in it: the same instruction again gets the same
answer again, and any other a refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import RecordDict

from permmoe.errors import PermmoeError
from permmoe.federated.audit import Entry, Kind, LedgerHead
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.instructions import Instruction
from permmoe.federated.release_account import ReleaseAccount
from permmoe.federated.roster import read_roster, site_keys
from permmoe.federated.secure.blocks import Numbers
from permmoe.federated.secure.messages import (
    read_choices,
    read_cohort,
    read_evidence,
    read_keys,
    read_names,
    read_session_digest,
    read_session_start,
    read_shares,
    write_advertisement,
    write_count_shares,
    write_masked,
    write_masks,
    write_sealed,
)
from permmoe.federated.secure.session import Blocks, SecureSumRefused, Session, SiteKeys
from permmoe.federated.secure.site_sum import Rules, SiteSum
from permmoe_client.connection.identity import check_roster, load_certificate, load_key
from permmoe_client.participation.summed_sites import account_of_sums
from permmoe_client.release.ledger import Ledger
from permmoe_client.site import ReleasePolicy, SiteConfig

WriteEntry = Callable[[int], LedgerHead]
"""Writes the ledger's entry for an input of this many bytes, before the input leaves."""
Stage = Callable[[RecordDict, "SecureSession | None"], RecordDict]
"""Makes a site's answer from an instruction and the session that the site is in. Raises SecureSumRefused."""
WriteSum = Callable[[tuple[str, ...]], LedgerHead]
"""Writes the ledger's entry for a sum over these sites, before this site's keys to it leave."""


class AlreadyAnswered(PermmoeError):
    """This site has given its input to the round: two sums that differ by one site would give that site away."""


@dataclass
class SecureSession:
    """The session that a site is in, and what the site adds to its sum."""

    sum: SiteSum
    blocks: Blocks
    numbers: Numbers
    """Empty once the masked input has been sent."""
    write_entry: WriteEntry
    write_sum: WriteSum
    sum_head: LedgerHead | None = None
    """Of the ledger once it says who is in the sum."""
    asked: RecordDict | None = None
    """The newest instruction that was answered."""
    answer: RecordDict | None = None


@dataclass(frozen=True)
class SessionTerms:
    """What a session rests on. All of it has been checked."""

    session: Session
    roster: SiteKeys
    roster_serial: int
    rules: Rules
    account: ReleaseAccount
    """Of the sites that the study's earlier sums were over, as far as this site knows."""


def check_terms(
    instruction: Instruction, content: RecordDict, site: SiteConfig, ledger: Ledger | None, kind: Kind
) -> SessionTerms:
    """The terms of the session that a message begins, before any work is done for it.

    Raises SecureSumRefused, AlreadyAnswered, RosterError or MalformedRecord where this site may not take part.
    """
    if site.coordinator is None or ledger is None:
        raise SecureSumRefused("a secure study needs the site's key, roster and ledger; connect it with a kit")
    federation, policy, opening = instruction.plan.federation, site.release, read_session_start(content)
    # "t is at least the site's own share": a plan that asks for less is not what this site allows.
    if federation.secure_threshold < policy.min_secure_threshold:
        raise SecureSumRefused(
            f"the study's secure_threshold, {federation.secure_threshold:.2f}, is under this site's "
            f"release.min_secure_threshold, {policy.min_secure_threshold:.2f}"
        )
    purpose = instruction.part if kind == "evaluation" else kind
    entries = list(ledger.entries())
    # "A site gives its input to a round once", and never to one before it; "to an evaluation of a model once", whatever
    # the round is called.
    if any(_uses_up(entry, kind, instruction, purpose) for entry in entries):
        raise AlreadyAnswered(
            f"this site has given its input to round {instruction.round} of study {instruction.plan.digest()}, or to an"
            " evaluation of the same model"
        )
    # "A roster is never older than one that was seen": it would bring removed sites back.
    newest = max((int(entry.facts.get("roster", 1)) for entry in entries), default=1)
    own = check_roster(site.coordinator, site.name)
    authority = load_certificate(site.coordinator.authority)
    roster = read_roster(opening.roster, authority, minimum_serial=max(own.serial, newest))
    session = Session(instruction.plan.digest(), purpose, instruction.round, instruction.model_digest, opening.nonce)
    # "A study that forgets somebody goes on from another": its sums less the other's would show who is missing.
    forgets = instruction.plan.forgets
    account = account_of_sums(entries, (session.study, *(forgets.studies if forgets else ())))
    return SessionTerms(session, site_keys(roster), roster.serial, rules_of(policy, federation), account)


def rules_of(policy: ReleasePolicy, federation: FederationConfig) -> Rules:
    """What the site insists on in a study: the stricter of its own policy and the study's settings.

    A block with shared noise needs as many holders as the noise was shared for: a site that takes part and does not
    send it has added none.
    """
    shares = federation.privacy and federation.privacy.moments and federation.privacy.moments.is_shared
    return Rules(
        federation.secure_threshold,
        max(policy.min_cohort, federation.min_sites),
        max(policy.min_holders, federation.least_sites if shares else federation.min_holders),
        max(policy.min_cohort_difference, federation.min_cohort_difference),
    )


def answered(content: RecordDict, session: SecureSession | None) -> RecordDict | None:
    """The answer to the very instruction that was answered last, byte by byte the same; None for any other.

    "One answer a stage": a site that is asked twice must not say two things, but may say one thing twice, since who has
    the answer already learns nothing from it.
    """
    return session.answer if session and session.asked == content else None


def answer(stage: Stage, content: RecordDict, session: SecureSession | None) -> RecordDict:
    """The answer to the instruction of a stage after the first. Raises SecureSumRefused."""
    if (given := answered(content, session)) is not None:
        return given
    made = stage(content, session)
    if session:
        session.asked, session.answer = content, made
    return made


def begin(
    site: SiteConfig,
    content: RecordDict,
    terms: SessionTerms,
    blocks: Blocks,
    numbers: Numbers,
    write_entry: WriteEntry,
    write_sum: WriteSum,
) -> tuple[SecureSession, RecordDict]:
    """Stage 1 of the secure sum, after the work that `content` asked for: the session that the site is in from now on,
    and its advertisement."""
    assert site.coordinator
    key = load_key(site.coordinator.key)
    sum_ = SiteSum(terms.session, site.name, key, terms.roster, terms.rules, blocks, terms.account)
    advertisement = write_advertisement(sum_.advertise())
    session = SecureSession(sum_, blocks, numbers, write_entry, write_sum, asked=content, answer=advertisement)
    return session, advertisement


def share(content: RecordDict, session: SecureSession | None) -> RecordDict:
    """Stage 2 of the secure sum: sealed shares of the site's secrets for the participants that it chooses."""
    joined = _joined(content, session)
    sealed = joined.sum.share(read_cohort(content))
    return RecordDict({"sealed": write_sealed(sealed, joined.sum.participants.names)})


def mask(content: RecordDict, session: SecureSession | None) -> RecordDict:
    """Stage 3 of the secure sum: the masked input. Only here something of the site's data leaves; its entry is written
    first."""
    joined = _joined(content, session)
    choices = read_choices(content, joined.sum.participants)
    senders = [name for name in choices.kept_by(joined.sum.site) if name != joined.sum.site]
    masked = joined.sum.mask(read_shares(content, senders), choices, joined.numbers)
    joined.numbers = {}
    return write_masked(masked, joined.write_entry(masked.numbers.nbytes + masked.bits.nbytes))


def count(content: RecordDict, session: SecureSession | None) -> RecordDict:
    """Stage 4 of the secure sum: for the other sites shares from which they count holders, sealed for each of them."""
    return write_count_shares(_joined(content, session).sum.count(read_names(content, "arrived")))


def unmask(content: RecordDict, session: SecureSession | None) -> RecordDict:
    """Stage 5 of the secure sum: the keys that unmask the sums of blocks with enough holders, which the first question
    lets this site count.

    The sum's entry is written first: which later sums this site takes part in depends on it.
    """
    joined = _joined(content, session)
    evidence = read_evidence(content, len(joined.blocks))
    if evidence:
        joined.sum.open(evidence, read_keys(content, evidence.seeds.keys() - {joined.sum.site}))
    unmasking = joined.sum.unmask(read_names(content, "silent"))
    if joined.sum_head is None:
        joined.sum_head = joined.write_sum(joined.sum.arrived)
    return write_masks(unmasking, joined.sum_head)


def _joined(content: RecordDict, session: SecureSession | None) -> SecureSession:
    # "A message of another session is not answered", whether it is an old one replayed or one from before a restart.
    if session is None or read_session_digest(content) != session.sum.session.digest().hex():
        raise SecureSumRefused("this site is in no such session; it was restarted, or another session has begun")
    return session


def _uses_up(entry: Entry, kind: Kind, instruction: Instruction, purpose: str) -> bool:
    """Whether an entry of the ledger says that this site can no longer give its input to the instruction's round."""
    facts = entry.facts
    if entry.kind != kind or facts.get("study") != instruction.plan.digest():
        return False
    done, is_same = int(facts.get("round", 0)), facts.get("purpose") == purpose
    is_model_evaluated = kind == "evaluation" and is_same and facts.get("model_sha256") == instruction.model_digest
    return done > instruction.round or (done == instruction.round and is_same) or is_model_evaluated
