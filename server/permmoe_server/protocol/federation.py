"""Where a study runs: the connection to its sites, the time, and who the sites are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from flwr.app import Message

from permmoe.federated.audit import LedgerHead, Receipt
from permmoe.federated.instructions import Instruction
from permmoe.federated.model_chain import Announcement, Link, Purpose
from permmoe.federated.secure.session import SiteKeys
from permmoe_server.protocol.quarantine import Quarantine
from permmoe_server.protocol.readiness import ReadinessObserver
from permmoe_server.protocol.round_records import FederationState, RoundRecord
from permmoe_server.protocol.summed_sites import SummedSites

POLL_SECONDS = 0.1
"""Pause before the grid is asked again."""


@runtime_checkable
class MessageGrid(Protocol):
    """What the protocol needs of Flower's Grid."""

    def get_node_ids(self) -> Iterable[int]:
        """Nodes that are connected."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; returns an identifier for each, an empty one where a message could not be stored."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to these messages that are there now. With none, it may wait for some seconds for one."""


@dataclass(frozen=True)
class Clock:
    """Time as the protocol sees it: monotonic seconds, and a pause of some seconds."""

    now: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class SignedRoster:
    """The sites that may take part in a secure sum."""

    signed: bytes
    """The file as sites are sent it."""
    keys: SiteKeys
    """The keys that were read from it."""


SiteDirectory = Callable[[], Mapping[int, str] | None]
"""Returns which node is which site at this moment, or None where that is unknown: a site's own word is then taken."""
RosterSource = Callable[[], SignedRoster]
"""Returns the federation's roster at this moment."""
Countersigner = Callable[[LedgerHead], Receipt]
"""Returns a receipt for the newest entry of a site's ledger."""
Announcer = Callable[[Link], Announcement]
"""Enters a model into the study's chain, and returns the whole chain, signed, once the model is on the disk there."""


def no_directory() -> None:
    """The directory of a federation that does not know its nodes."""


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True)
class RoundObserver:
    """Functions that are called as a study goes on, for measurements; they change nothing."""

    on_round_start: Callable[[int], None] = _ignore
    """Called with a round's number before each try at it, before the sites are waited for."""
    on_round: Callable[[FederationState, RoundRecord], None] = _ignore
    """Called with the state and the record after each try, before they are written to disk."""


@dataclass(frozen=True)
class ConnectedSites:
    """The nodes that are connected at one moment and may take part."""

    nodes: tuple[int, ...]
    names: Mapping[int, str] | None
    """Node -> site; None where that is unknown."""
    quarantined: tuple[int, ...] = ()
    """The nodes that are connected and are not asked any more."""

    def name(self, node: int) -> str | None:
        """The site that a node is, or None where that is unknown."""
        return self.names[node] if self.names else None

    def sender(self, node: int) -> str:
        """What a node is called where its replies are counted: its site or, where that is unknown, its number."""
        return self.name(node) or f"node {node}"


@dataclass(frozen=True)
class Federation:
    """The sites of a study as the server reaches and knows them."""

    grid: MessageGrid
    clock: Clock = Clock()
    directory: SiteDirectory = no_directory
    roster: RosterSource | None = None
    """Needed by secure studies."""
    countersigner: Countersigner | None = None
    """None where the server gives no receipts."""
    announcer: Announcer | None = None
    """None where the server has no key, and sites are sent models that nobody signed for."""
    observer: RoundObserver = RoundObserver()
    on_readiness: ReadinessObserver | None = None
    """With it a study waits for its sites for as long as they take; without, for as long as a round may take."""
    is_to_stop: Callable[[], bool] = lambda: False
    """Asked before each round, and while the study waits: whether it is to end here, for now."""
    sums: SummedSites = field(default_factory=SummedSites)
    """The secure sums of the study so far."""
    quarantine: Quarantine = field(default_factory=Quarantine)
    """Who has sent what is no reply, and how often."""

    def connected(self) -> ConnectedSites:
        """The nodes that are online and, where that is known, belong to a site; quarantined ones apart."""
        names = self.directory()
        online = ConnectedSites(
            tuple(node for node in self.grid.get_node_ids() if names is None or node in names), names
        )
        held = tuple(node for node in online.nodes if self.quarantine.holds(online.sender(node)))
        return ConnectedSites(tuple(node for node in online.nodes if node not in held), names, held)

    def hears(self, sites: ConnectedSites, node: int) -> bool:
        """Whether a late answer of a node is awaited: it is still a site's, and is not quarantined."""
        return (sites.names is None or node in sites.names) and not self.quarantine.holds(sites.sender(node))

    def announced(self, instruction: Instruction, purpose: Purpose) -> Instruction:
        """The instruction with the chain that its model is in; without an announcer the instruction as it is."""
        if self.announcer is None:
            return instruction
        link = Link(instruction.round, purpose, instruction.model_digest)
        return replace(instruction, announcement=self.announcer(link))

    def countersigned(self, earlier: Mapping[str, Receipt], heads: Iterable[LedgerHead | None]) -> dict[str, Receipt]:
        """For each site's ledger the newest receipt, once these heads are countersigned; None is no head."""
        receipts = dict(earlier)
        for head in heads:
            # "An entry number never goes down": a site whose ledger was put back is told of the newest all the same.
            is_newer = head and (head.site not in receipts or head.sequence > receipts[head.site].head.sequence)
            if head and is_newer and self.countersigner:
                receipts[head.site] = self.countersigner(head)
        return receipts

    def wait_for_sites(self, min_sites: int, deadline_seconds: float) -> None:
        """Return once enough sites are connected, or at the deadline: the round then fails for want of replies."""
        deadline = self.clock.now() + deadline_seconds
        while len(self.connected().nodes) < min_sites and self.clock.now() < deadline:
            self.clock.pause(POLL_SECONDS)
