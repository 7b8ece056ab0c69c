"""The secure sum as the coordinator runs it: five stages over Flower's Grid, each with a deadline.

Sites do not trust the server: what it may learn follows from what sites refuse (permmoe.federated.secure),
not from this file. A site that is silent or wrong at a stage is out of the later ones; the sum goes on while enough
sites are left.

A site whose connection is lost is asked again once it is back, until the stage ends: what it was asked before, bit by
bit. That is safe at every stage, since the site then sends the answer that it has sent, or makes it for the first time
(permmoe_client.participation.secure_session); it makes no second one, whatever it is sent. A site that was restarted
has forgotten its keys: in the first stage it begins anew, in a later one it refuses and is out.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
from flwr.app import ConfigRecord, RecordDict

from permmoe.federated.audit import LedgerHead
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.records import content_bytes, contents_bytes
from permmoe.federated.refusals import Refusal
from permmoe.federated.secure import masks
from permmoe.federated.secure.exchanged import UnmaskedSum, Unmasking
from permmoe.federated.secure.messages import (
    SessionStart,
    read_advertisement,
    read_count_shares,
    read_masked,
    read_masks,
    read_sealed,
    write_choices,
    write_cohort,
    write_evidence,
    write_keys,
    write_names,
    write_session_start,
    write_shares,
    write_stage,
)
from permmoe.federated.secure.server_sum import ServerSum
from permmoe.federated.secure.session import Advertisement, Blocks, Participants, SecureSumRefused, Session
from permmoe_server.protocol.acceptance import RejectedReply, distrusted
from permmoe_server.protocol.exchange import content_of, exchange, send
from permmoe_server.protocol.federation import Federation, SignedRoster
from permmoe_server.protocol.quarantine import QUARANTINED

LOG = logging.getLogger("permmoe.server")

SHARE, MASK, COUNT, OPEN = (f"query.secure_{stage}" for stage in ("share", "mask", "count", "open"))
"""Message types of the stages after the first, whose type is that of the work that it asks for."""


@dataclass(frozen=True)
class SumTask:
    """What is to be summed."""

    session: Session
    instruction: RecordDict
    """The message of stage 1, without the session's record."""
    message_type: str
    """Flower's type of that message: it says what work precedes the sum."""
    blocks: Blocks


@dataclass
class Participant:
    """What one node did in a session."""

    node: int
    site: str = ""
    bytes_down: int = 0
    bytes_up: int = 0
    head: LedgerHead | None = None
    """The newest entry of its ledger, which is about its input or, once it has released its masks, about the sum."""
    rejected: str | None = None
    """The rule that a reply broke, `no_reply`, or the type of the error that it had; it is out from then on."""
    lost_at: str = ""
    """The stage of that reply."""


@dataclass(frozen=True)
class SumOutcome:
    """How a session ended."""

    unmasked: UnmaskedSum | None
    """None where too few sites were left: then nothing was revealed."""
    participants: tuple[Participant, ...]
    arrived: tuple[str, ...]
    """Sites whose input is in the sum; none where too few would differ from those of earlier sums."""
    is_used_up: bool
    """Sites have given their input and will not give it again: the round's number is used up."""
    stage_seconds: Mapping[str, float]


_Take = Callable[[Participant, RecordDict], None]
"""Takes a participant's reply to a stage. A bad one makes it raise whatever it raises, and is left out."""


class _TooFewSites(Exception):
    """Too few sites are left to go on."""


def sum_securely(
    federation: Federation,
    task: SumTask,
    config: FederationConfig,
    roster: SignedRoster,
    among: Collection[str] = (),
) -> SumOutcome:
    """Run one secure sum over the connected sites, or over those of them that are named."""
    run = _Run(federation, task, config, roster, tuple(among))
    try:
        unmasked = run.all_stages()
    except _TooFewSites:
        unmasked = None
    participants = tuple(run.participants.values())
    return SumOutcome(
        unmasked,
        participants,
        tuple(sorted(run.server.bits)) if run.server and not run.is_too_close else (),
        run.is_masking_begun or any(p.rejected == Refusal.ALREADY_ANSWERED for p in participants),
        run.seconds,
    )


def new_session(study: str, purpose: str, number: int, model: str) -> Session:
    """A session with a fresh nonce."""
    return Session(study, purpose, number, model, secrets.token_hex(16))


@dataclass
class _Run:
    """A session as it goes on."""

    federation: Federation
    task: SumTask
    config: FederationConfig
    roster: SignedRoster
    among: tuple[str, ...]
    """The sites that may take part; empty: all."""
    participants: dict[int, Participant] = field(default_factory=dict)
    """By node."""
    senders: dict[int, str] = field(default_factory=dict)
    """By node, what it is called where its malformed replies are counted."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage."""
    server: ServerSum | None = None
    """None until the cohort is known."""
    is_masking_begun: bool = False
    is_too_close: bool = False
    """The sites whose input came differ by too few from those of earlier sums."""

    def all_stages(self) -> UnmaskedSum:
        """The sum. Raises _TooFewSites."""
        cohort = self._advertise()
        self.server = ServerSum(cohort, self.task.blocks, self.roster.keys)
        try:
            return self._stages(self.server, max(self.config.least_sites, cohort.quorum))
        except SecureSumRefused as refused:
            LOG.warning("round %d: %s", self.task.session.round, refused)
            raise _TooFewSites from None

    def _stages(self, server: ServerSum, least: int) -> UnmaskedSum:
        """The stages after the first."""
        self._share(server)
        chosen = self._chosen(server.sealed, SHARE)
        _require_enough(len(chosen), least)
        server.close_shares(chosen)
        self.is_masking_begun = True
        self._mask(server)
        _require_enough(len(server.bits), least)
        # Every site would refuse: an input that was given cannot be left out of the sum any more.
        if not self.federation.sums.admits(server.bits, self.config.min_cohort_difference):
            self.is_too_close = True
            self._leave_out(server.bits, MASK)
            raise _TooFewSites
        self._count(server)
        lost_keys = server.lost_keys()
        self.federation.sums.add(self.task.session, server.bits)
        openings, silent = self._unmask(server, lost_keys)
        started = self.federation.clock.now()
        unmasked = server.unmask(lost_keys, openings, silent, torch.get_num_threads())
        self.seconds["unmask"] = self.federation.clock.now() - started
        return unmasked

    def _advertise(self) -> Participants:
        """Stage 1: sites do the work itself, so that the later stages are short, and advertise their keys."""
        session = self.task.session
        adverts: dict[str, Advertisement] = {}
        sites = self.federation.connected()

        def take(participant: Participant, content: RecordDict) -> None:
            advert = read_advertisement(content)
            if sites.name(participant.node) not in (None, advert.site):
                raise RejectedReply("wrong_site")
            if advert.site in adverts:
                raise RejectedReply("duplicate_reply")
            if advert.site not in self.roster.keys or not advert.is_signed(session, self.roster.keys[advert.site]):
                raise RejectedReply("secure_advertisement")
            # "Every other site can agree on a secret with it": where one cannot, all of them would fail.
            if not masks.is_usable(advert.channel_key) or not masks.is_usable(advert.mask_key):
                raise RejectedReply("secure_advertisement")
            adverts[advert.site] = advert
            participant.site = advert.site

        opening = write_session_start(SessionStart(session.nonce, self.roster.signed))
        content = RecordDict({**self.task.instruction, "secure": opening})
        nodes = [node for node in sites.nodes if not self.among or sites.name(node) in (None, *self.among)]
        self.participants |= {node: Participant(node, sites.name(node) or "") for node in nodes}
        for node in sites.quarantined:
            self.participants[node] = Participant(node, sites.name(node) or "", rejected=QUARANTINED)
        self.senders = {node: sites.sender(node) for node in nodes}
        self._exchange(self.task.message_type, dict.fromkeys(nodes, content), self.config.round_deadline_seconds, take)
        chosen = self._chosen(adverts, self.task.message_type)
        _require_enough(len(chosen), self.config.least_sites)
        return Participants.of(session, [adverts[site] for site in chosen], self.config.secure_threshold)

    def _chosen(self, available: Collection[str], message_type: str) -> tuple[str, ...]:
        """The sites that go on, so that this sum differs from earlier ones by enough sites; the others are out."""
        asked = [site for site in available if not self.among or site in self.among]
        chosen = self.federation.sums.choose(asked, self.config.min_cohort_difference)
        self._leave_out(set(available) - set(chosen), message_type)
        return chosen

    def _leave_out(self, sites: Collection[str], message_type: str) -> None:
        for participant in self.participants.values():
            if participant.rejected is None and participant.site in sites:
                participant.rejected, participant.lost_at = "cohort_difference", _stage(message_type)

    def _share(self, server: ServerSum) -> None:
        """Stage 2: every site deals shares of its secrets to keepers, whom it chooses, sealed for each."""

        def take(participant: Participant, content: RecordDict) -> None:
            server.take_shares(participant.site, read_sealed(content, server.participants.names))

        self._send_to_all(SHARE, write_cohort(server.participants.sites), take)

    def _mask(self, server: ServerSum) -> None:
        """Stage 3: sites receive their shares and send their masked input."""
        blocks = self.task.blocks

        def take(participant: Participant, content: RecordDict) -> None:
            masked, head = read_masked(content, sum(blocks.values()), len(blocks))
            if masked.site != participant.site:
                raise RejectedReply("wrong_site")
            server.take_input(masked)
            participant.head = head

        choices = write_choices(server.choices)
        contents = {
            node: write_stage(self.task.session, sealed=write_shares(server.shares_for(site)), choices=choices)
            for site, node in self._left().items()
        }
        self._exchange(MASK, contents, self.config.stage_deadline_seconds, take)

    def _count(self, server: ServerSum) -> None:
        """Stage 4: sites give one another what holders are counted from, and the server what lost sites masked."""

        def take(participant: Participant, content: RecordDict) -> None:
            others = server.bits.keys() - {participant.site}
            server.take_count_shares(participant.site, read_count_shares(content, others))

        self._send_to_all(COUNT, {"arrived": write_names(server.bits)}, take)

    def _unmask(
        self, server: ServerSum, lost_keys: Mapping[str, bytes]
    ) -> tuple[Mapping[str, Unmasking], Collection[str]]:
        """Stage 5: sites count holders and release blocks; asked again, without what they have already, while sites go
        silent and enough are left.

        Returns what each site released, and the silent sites.
        """
        openings: dict[str, Unmasking] = {}

        def take(participant: Participant, content: RecordDict) -> None:
            unmasking, head = read_masks(content, participant.site)
            server.check_unmasking(participant.site, unmasking, silent)
            openings[participant.site] = unmasking
            participant.head = head or participant.head

        evidence = write_evidence(server.evidence(lost_keys))
        news = {
            node: {**evidence, "count-shares": write_keys(server.keys_for(site))} for site, node in self._left().items()
        }
        while True:
            openings.clear()
            silent = sorted(set(server.bits) - set(self._left()))
            gone = write_names(silent)
            contents = {
                node: write_stage(self.task.session, silent=gone, **news.get(node, {}))
                for node in self._left().values()
            }
            self._exchange(OPEN, contents, self.config.stage_deadline_seconds, take)
            if len(openings) + len(silent) == len(server.bits):
                return openings, silent
            server.require_keepers(server.bits.keys() - openings.keys(), openings)
            news = {}

    def _send_to_all(self, message_type: str, records: Mapping[str, ConfigRecord], take: _Take) -> None:
        """Send every site that is left the same records, and take the replies."""
        content = write_stage(self.task.session, **records)
        contents = dict.fromkeys(self._left().values(), content)
        self._exchange(message_type, contents, self.config.stage_deadline_seconds, take)

    def _exchange(self, message_type: str, contents: Mapping[int, RecordDict], seconds: float, take: _Take) -> None:
        """Send each node its content and take the replies; a node without a reply that can be taken is out."""
        clock, stage, group = self.federation.clock, _stage(message_type), str(self.task.session.round)
        started = clock.now()
        sizes = dict(zip(contents, contents_bytes(contents.values()), strict=True))
        for node, size in sizes.items():
            self.participants[node].bytes_down += size

        def ask_again(nodes: Collection[int]) -> Mapping[str, int]:
            left = started + seconds - clock.now()
            if left <= 0:
                return {}
            again = {node: contents[node] for node in nodes}
            for node in again:
                self.participants[node].bytes_down += sizes[node]
            return send(self.federation, again, message_type, group, left)

        for node, message in exchange(
            self.federation, contents, message_type, group, seconds, lost=set(), ask_again=ask_again
        ):
            participant = self.participants[node]
            try:
                with distrusted():
                    content = content_of(message)
                    participant.bytes_up += content_bytes(content)
                    take(participant, content)
            except RejectedReply as rejection:
                participant.rejected, participant.lost_at = rejection.rule, stage
                self.federation.quarantine.note(self.senders[node], rejection.rule)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + clock.now() - started

    def _left(self) -> dict[str, int]:
        """Site -> node of those that are not out."""
        return {p.site: p.node for p in self.participants.values() if p.rejected is None}


def _stage(message_type: str) -> str:
    return message_type.removeprefix("query.secure_")


def _require_enough(found: int, least: int) -> None:
    if found < least:
        raise _TooFewSites
