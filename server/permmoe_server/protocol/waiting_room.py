"""Where a study waits for its sites: until enough are connected and have approved it.

Approvals take weeks and a hospital's machine may be away for a night, so waiting costs nothing that is counted: no
round's number, no try, no refusal. Sites are asked by a question without a model
(permmoe.federated.approval_question), which each answers from what its hospital has approved.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from permmoe.federated.approval_question import APPROVAL_MESSAGE, read_answer, write_question
from permmoe.federated.plan import RoundPlan
from permmoe.federated.refusals import Refusal
from permmoe_server.protocol.acceptance import RejectedReply, distrusted
from permmoe_server.protocol.exchange import content_of, exchange
from permmoe_server.protocol.federation import ConnectedSites, Federation
from permmoe_server.protocol.readiness import Readiness
from permmoe_server.protocol.round_records import SiteRecord
from permmoe_server.protocol.rules import UNPROVEN_RULES

ANSWER_SECONDS = 30.0
"""A site answers from its ledger. One that is busy with an earlier message is asked again."""
ASK_AGAIN_SECONDS = 30.0
"""After this long a site that had not approved is asked again: a later approval starts the study. So is one whose
answer was not proven to be its own."""
LOOK_AGAIN_SECONDS = 1.0
"""Pause before it is seen who is connected."""


@dataclass
class WaitingRoom:
    """The sites' newest answers, for as long as the study's process lives."""

    federation: Federation
    plan: RoundPlan

    def __post_init__(self) -> None:
        self._has_approved: dict[int, bool] = {}
        self._unproven: dict[int, str] = {}
        """Nodes that nothing is known of, since what came was not proven to be the site's: the rule that it broke."""
        self._ask_again_at = 0.0

    def wait(self, number: int) -> None:
        """Return once enough sites are ready for a round, or when the study is to stop.

        Where nobody follows the wait (`Federation.on_readiness`), approvals are not asked for, and the wait is over at
        the round's deadline: the try then fails for want of replies.
        """
        config, federation = self.plan.federation, self.federation
        if federation.on_readiness is None:
            federation.wait_for_sites(config.least_sites, config.round_deadline_seconds)
            return
        while True:
            sites = federation.connected()
            if len(self._ready(sites)) < config.least_sites:
                self._ask(sites, number)
            readiness = self._readiness(sites)
            federation.on_readiness(readiness)
            if not readiness.is_waiting or federation.is_to_stop():
                return
            federation.clock.pause(LOOK_AGAIN_SECONDS)

    def learn(self, sites: Iterable[SiteRecord]) -> None:
        """Take up what a try at a round shows of approvals: a hospital may take one back, or give it late."""
        for site in sites:
            if site.rejected is None:
                self._hear(site.node, has_approved=True)
            elif site.rejected == Refusal.STUDY_NOT_APPROVED:
                self._hear(site.node, has_approved=False)
            elif site.rejected in UNPROVEN_RULES:
                self._doubt(site.node, site.rejected)

    def _hear(self, node: int, *, has_approved: bool) -> None:
        self._has_approved[node] = has_approved
        self._unproven.pop(node, None)

    def _doubt(self, node: int, rule: str) -> None:
        self._has_approved.pop(node, None)
        self._unproven[node] = rule

    def _ready(self, sites: ConnectedSites) -> list[int]:
        return [node for node in sites.nodes if self._has_approved.get(node)]

    def _ask(self, sites: ConnectedSites, number: int) -> None:
        """Ask those who were never asked and, from time to time, those who had not approved."""
        now = self.federation.clock.now()
        is_time = now >= self._ask_again_at
        if is_time:
            self._ask_again_at = now + ASK_AGAIN_SECONDS
        known = self._has_approved.keys() | self._unproven.keys()
        nodes = [n for n in sites.nodes if n not in known or (is_time and not self._has_approved.get(n))]
        question = write_question(self.plan)
        contents = dict.fromkeys(nodes, question)
        for node, message in exchange(self.federation, contents, APPROVAL_MESSAGE, str(number), ANSWER_SECONDS):
            try:
                with distrusted():
                    self._hear(node, has_approved=read_answer(content_of(message)).has_approved)
            except RejectedReply as rejection:
                self.federation.quarantine.note(sites.sender(node), rejection.rule)
                if rejection.rule in UNPROVEN_RULES:
                    # "An approval is the hospital's own": an invented one starts no study.
                    self._doubt(node, rejection.rule)
                elif message is None:
                    self._unproven.pop(node, None)
                else:
                    # It has another trouble than a missing approval. The round tells it by name.
                    self._hear(node, has_approved=True)

    def _readiness(self, sites: ConnectedSites) -> Readiness:
        def names(nodes: Iterable[int]) -> tuple[str, ...]:
            return tuple(sorted(map(sites.sender, nodes)))

        ready = self._ready(sites)
        return Readiness(
            is_waiting=len(ready) < self.plan.federation.least_sites,
            needed=self.plan.federation.least_sites,
            ready=names(ready),
            unapproved=names(node for node in sites.nodes if self._has_approved.get(node) is False),
            silent=names(n for n in sites.nodes if n not in self._has_approved and n not in self._unproven),
            quarantined=names(sites.quarantined),
            unproven={sites.sender(node): self._unproven[node] for node in sites.nodes if node in self._unproven},
        )
