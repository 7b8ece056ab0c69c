"""The secure sum as the coordinator runs it: five stages over Flower's Grid, each with a deadline.

The server is not believed: what it may learn follows from what sites refuse (permmoe.federated.secure.secure_sum), not
from this file. A site that is silent or wrong at a stage is out of the later ones; the sum goes on while t sites are
left.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flwr.app import RecordDict

from permmoe.federated.audit import Head
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.records import MalformedRecord, content_bytes
from permmoe.federated.secure.messages import (
    Opened as OpenedSession,
)
from permmoe.federated.secure.messages import (
    read_advertisement,
    read_bytes,
    read_count_shares,
    read_masked,
    read_masks,
    write_bytes,
    write_cohort,
    write_evidence,
    write_names,
    write_opening,
    write_stage,
)
from permmoe.federated.secure.secure_sum import (
    Advertisement,
    Blocks,
    Cohort,
    Opened,
    Opening,
    SecureSumRefused,
    ServerSum,
    Session,
    SiteKeys,
    threshold,
)
from permmoe_server.protocol.acceptance import RejectedReply
from permmoe_server.protocol.exchange import Clock, MessageGrid, connected, content_of, exchange

SHARE, MASK, COUNT, OPEN = (f"query.secure_{stage}" for stage in ("share", "mask", "count", "open"))
"""Message types of the stages after the first, whose type is that of the work that it asks for."""
ALREADY_ANSWERED = "AlreadyAnswered"
"""The type of a site's error where it has given its input to this round before."""


@dataclass(frozen=True)
class SignedRoster:
    """Who may take part: as sites are sent it, and as it was read."""

    signed: bytes
    keys: SiteKeys


@dataclass
class Participant:
    """What one node did in a session."""

    node: int
    site: str = ""
    bytes_down: int = 0
    bytes_up: int = 0
    head: Head | None = None
    """Of its ledger, whose newest entry is its input."""
    rejected: str | None = None
    """The rule that a reply broke, `no_reply`, or the type of the error that it had; it is out from then on."""
    lost_at: str = ""
    """The stage of that reply."""


@dataclass(frozen=True)
class Outcome:
    """How a session ended."""

    opened: Opened | None
    """None where too few sites were left: then nothing was revealed."""
    participants: tuple[Participant, ...]
    arrived: tuple[str, ...]
    """Sites whose input is in the sum."""
    is_spent: bool
    """Sites have given their input and will not give it again: the round's number is used up."""
    stage_seconds: Mapping[str, float]


@dataclass
class _Stages:
    """Who is left, and how a stage is asked of them."""

    grid: MessageGrid
    clock: Clock
    session: Session
    participants: dict[int, Participant] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def ask(
        self,
        message_type: str,
        contents: Mapping[int, RecordDict],
        seconds: float,
        take: Callable[[Participant, RecordDict], None],
    ) -> None:
        """Send each node its content and take the replies; whoever gives none that can be taken is out."""
        started, name = self.clock.now(), message_type.removeprefix("query.secure_")
        for node, content in contents.items():
            self.participants[node].bytes_down += content_bytes(content)
        for node, message in exchange(self.grid, contents, message_type, str(self.session.round), seconds, self.clock):
            participant = self.participants[node]
            try:
                content = content_of(message)
                participant.bytes_up += content_bytes(content)
                take(participant, content)
            except (RejectedReply, MalformedRecord) as error:
                participant.rejected = error.rule
            except SecureSumRefused:
                participant.rejected = "secure_sum"
            if participant.rejected:
                participant.lost_at = name
        self.seconds[name] = self.seconds.get(name, 0.0) + self.clock.now() - started

    def left(self) -> dict[str, int]:
        """Site -> node of those that are not out."""
        return {p.site: p.node for p in self.participants.values() if p.rejected is None}


def sum_securely(
    grid: MessageGrid,
    session: Session,
    instruction: RecordDict,
    message_type: str,
    blocks: Blocks,
    federation: FederationConfig,
    roster: SignedRoster,
    clock: Clock,
    sites: Mapping[int, str] | None,
) -> Outcome:
    """One secure sum over the connected sites. `instruction`: what stage 1 asks for, without the session's record."""
    stages = _Stages(grid, clock, session)
    least = federation.least_sites
    is_spent = False
    server: ServerSum | None = None

    def ended(opened: Opened | None) -> Outcome:
        spent = is_spent or any(p.rejected == ALREADY_ANSWERED for p in stages.participants.values())
        arrived = tuple(sorted(server.bits)) if server else ()
        return Outcome(opened, tuple(stages.participants.values()), arrived, spent, stages.seconds)

    # 1. Advertise: the work itself is done here, so that the stages after it are short.
    adverts: dict[str, Advertisement] = {}

    def take_advertisement(participant: Participant, content: RecordDict) -> None:
        advert = read_advertisement(content)
        if sites is not None and advert.site != sites[participant.node]:
            raise RejectedReply("wrong_site")
        if advert.site in adverts:
            raise RejectedReply("duplicate_reply")
        if advert.site not in roster.keys or not advert.is_signed(session, roster.keys[advert.site]):
            raise RejectedReply("secure_advertisement")
        adverts[advert.site] = advert
        participant.site = advert.site

    opening = RecordDict({**instruction, "secure": write_opening(OpenedSession(session.nonce, roster.signed))})
    nodes = connected(grid, sites)
    stages.participants |= {node: Participant(node, sites[node] if sites else "") for node in nodes}
    stages.ask(message_type, dict.fromkeys(nodes, opening), federation.round_deadline_seconds, take_advertisement)
    if len(adverts) < least:
        return ended(None)
    cohort = Cohort.of(session, adverts.values(), threshold(federation.secure_threshold, len(adverts)))
    server = ServerSum(cohort, blocks, roster.keys)
    least = max(least, cohort.threshold)
    seconds = federation.stage_deadline_seconds

    # 2. Share.
    def take_shares(participant: Participant, content: RecordDict) -> None:
        server.take_shares(participant.site, read_bytes(content, "sealed"))

    question = write_stage(session, **write_cohort(cohort.sites, cohort.threshold))
    stages.ask(SHARE, dict.fromkeys(stages.left().values(), question), seconds, take_shares)
    if len(server.sealed) < least:
        return ended(None)

    # 3. Mask.
    def take_input(participant: Participant, content: RecordDict) -> None:
        masked, head = read_masked(content, sum(blocks.values()), len(blocks))
        if masked.site != participant.site:
            raise RejectedReply("wrong_site")
        server.take_input(masked)
        participant.head = head

    is_spent = True
    questions = {
        node: write_stage(session, sealed=write_bytes(server.shares_for(site))) for site, node in stages.left().items()
    }
    stages.ask(MASK, questions, seconds, take_input)
    if len(server.bits) < least:
        return ended(None)

    # 4. Count the holders.
    def take_counts(participant: Participant, content: RecordDict) -> None:
        server.take_count_shares(participant.site, read_count_shares(content))

    question = write_stage(session, arrived=write_names(server.bits))
    stages.ask(COUNT, dict.fromkeys(stages.left().values(), question), seconds, take_counts)
    try:
        evidence = server.evidence()
    except SecureSumRefused:
        return ended(None)

    # 5. Open, again as long as sites go silent and enough are left.
    openings: dict[str, Opening] = {}

    def take_masks(participant: Participant, content: RecordDict) -> None:
        openings[participant.site] = read_masks(content)

    while True:
        openings.clear()
        silent = sorted(set(server.bits) - set(stages.left()))
        question = write_stage(session, **write_evidence(evidence, silent))
        stages.ask(OPEN, dict.fromkeys(stages.left().values(), question), seconds, take_masks)
        if len(openings) + len(silent) == len(server.bits):
            break
        if len(openings) < cohort.threshold:
            return ended(None)
    try:
        return ended(server.open(evidence, openings, silent, federation.min_holders))
    except SecureSumRefused:
        return ended(None)


def new_session(study: str, purpose: str, number: int, model: str) -> Session:
    """A session of its own."""
    return Session(study, purpose, number, model, secrets.token_hex(16))
